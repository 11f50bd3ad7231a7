//! [`Scheduler`]: its state, and the calls that change the state outside of a step.

use std::collections::VecDeque;
use std::time::Duration;

use playhouse_kvcache::BlockPool;
use playhouse_types::{
    BlockId, Emission, Epoch, FinishReason, GenerateRequest, PrefixEvent, RequestId, Slot, StepId,
};

use crate::emitted::Emitted;
use crate::queue::Queue;
use crate::sequence::{Sequence, as_u32};
use crate::tempo::Tempo;
use crate::{HashedRequest, Limits, NeverFits, Stats, TIMINGS_MAX, Terms, Timings};

mod plan;
mod settle;

pub use settle::BrokenContract;

/// The scheduler of one replica. The documentation of the crate says what it guarantees.
///
/// - Requests come and go by [`enqueue`](Self::enqueue) and [`cancel`](Self::cancel).
/// - Steps are [`plan_step`](Self::plan_step), then [`apply`](Self::apply) in the same order.
/// - [`restart`](Self::restart) when the engine was lost, with everything it had in memory.
///
/// `now` is the time since any fixed origin; it feeds [`Timings`], deadlines and **S-16**. Request ids are the
/// caller's and must be unique among unfinished requests.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    epoch: Epoch,
    next_step: u64,
    pool: BlockPool,
    waiting: Queue,
    /// The requests with a slot, by slot.
    slots: Vec<Option<Sequence>>,
    /// The slots of running requests, in order of priority and arrival (**S-3**).
    running: Vec<Slot>,
    /// The empty slots, the next to be given last.
    empty: Vec<Slot>,
    /// The slots freed since the last plan; the next plan tells the engine.
    released: Vec<Slot>,
    /// The steps whose outcome has not come, oldest first.
    flights: VecDeque<Flight>,
    tempo: Tempo,
    /// The latest `now`.
    clock: Duration,
    preemptions: u64,
    steps: u64,
    prompt_tokens: u64,
    generated_tokens: u64,
    timings: Vec<Timings>,
    /// The last emissions of requests that expired.
    expired: Vec<Emission>,
}

/// A request that has left its scheduler, with everything that happened to it.
#[derive(Debug)]
pub struct MovedRequest(Sequence);

/// The work of a step in flight, in plan order.
#[derive(Debug)]
struct Flight {
    step: StepId,
    planned: Duration,
    /// The number of tokens beyond the first of each run.
    prefill: usize,
    runs: Vec<Planned>,
}

#[derive(Debug)]
enum Planned {
    /// The run feeds this many tokens of the sequence in this slot.
    Running { slot: Slot, tokens: usize },
    /// The sequence has ended since. The last step with it holds its blocks, because the step writes to
    /// them.
    Orphaned { slot: Slot, blocks: Vec<BlockId> },
}

// === impl MovedRequest ===

impl MovedRequest {
    /// Returns the request as it was asked for.
    #[must_use]
    pub fn request(&self) -> &GenerateRequest {
        &self.0.request
    }

    /// Returns the time from which the request is expired; `None` if it does not expire, such as a
    /// request that had a slot.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.0.deadline()
    }
}

// === impl Scheduler ===

impl Scheduler {
    /// Creates a scheduler without requests.
    ///
    /// # Panics
    /// If a limit is 0.
    #[must_use]
    pub fn new(limits: Limits, epoch: Epoch) -> Self {
        limits.check();
        Self {
            limits,
            epoch,
            next_step: 0,
            pool: BlockPool::new(limits.kv_blocks, limits.block_size),
            waiting: Queue::default(),
            slots: (0..limits.max_num_seqs).map(|_| None).collect(),
            running: Vec::with_capacity(limits.max_num_seqs),
            empty: all_slots(limits.max_num_seqs),
            released: Vec::new(),
            flights: VecDeque::new(),
            tempo: Tempo::default(),
            clock: Duration::ZERO,
            preemptions: 0,
            steps: 0,
            prompt_tokens: 0,
            generated_tokens: 0,
            timings: Vec::new(),
            expired: Vec::new(),
        }
    }

    /// Puts a request into the queue. The prompt is hashed before, so that planning need not do it.
    ///
    /// # Errors
    /// When the prompt and one more token exceed [`Limits::context`].
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn enqueue(
        &mut self,
        request: HashedRequest,
        terms: Terms,
        now: Duration,
    ) -> Result<(), NeverFits> {
        self.check_fits(&request.request, 0, now)?;
        self.waiting.insert(Sequence::new(request, terms, &self.limits, now));
        Ok(())
    }

    /// Puts a request whose scheduler was lost into the queue. The request goes on behind what it has
    /// emitted (**S-12**), and its position is that of its first arrival.
    ///
    /// # Errors
    /// The error of [`enqueue`](Self::enqueue), for the prompt and the emitted tokens.
    ///
    /// # Panics
    /// If the prompt is empty.
    pub fn resume(
        &mut self,
        request: HashedRequest,
        terms: Terms,
        emitted: Emitted,
        now: Duration,
    ) -> Result<(), NeverFits> {
        self.check_fits(&request.request, emitted.tokens.len(), now)?;
        self.waiting.insert(Sequence::resumed(request, terms, &self.limits, emitted));
        Ok(())
    }

    /// Checks that a request that has emitted this many tokens fits.
    fn check_fits(
        &mut self,
        request: &GenerateRequest,
        emitted: usize,
        now: Duration,
    ) -> Result<(), NeverFits> {
        assert!(!request.prompt.is_empty(), "the prompt of {} is empty", request.id);
        self.clock = self.clock.max(now);
        let (tokens, limit) = (request.prompt.len() + emitted + 1, self.limits.context());
        if tokens > limit {
            return Err(NeverFits { id: request.id, tokens, limit });
        }
        Ok(())
    }

    /// Ends a request that its caller no longer wants (**S-5**). The engine hears of the empty slot with
    /// the next plan. Returns the request's last emission, or `None` when there is no such request (any
    /// more): cancelling twice, or after the end, does nothing.
    pub fn cancel(&mut self, id: RequestId) -> Option<Emission> {
        if let Some(sequence) = self.waiting.remove(id) {
            return Some(self.end(&sequence, FinishReason::Cancelled));
        }
        let at = self.running.iter().position(|&slot| self.sequence(slot).request.id == id)?;
        let slot = self.running.remove(at);
        let mut sequence = self.vacate(slot);
        self.orphan(slot, sequence.release());
        Some(self.end(&sequence, FinishReason::Cancelled))
    }

    /// Returns the limits of the scheduler.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the request in a slot, if there is one.
    #[must_use]
    pub fn request_in(&self, Slot(slot): Slot) -> Option<RequestId> {
        let sequence = self.slots.get(slot as usize)?.as_ref()?;
        Some(sequence.request.id)
    }

    /// Starts over after the engine died, with all KV blocks and slots that the engine had. The outcomes
    /// of steps in flight will not come, and are ignored if they do.
    ///
    /// Requests that had a slot return to their position in the queue, with what they emitted, and will
    /// be computed again. If the engine may have died `of_step`, the requests that were in flight are
    /// blamed, and are suspects after the second time (**S-9**); the returned emissions end those that
    /// were suspects already.
    ///
    /// # Panics
    /// If `epoch` is not later than the present one.
    pub fn restart(&mut self, epoch: Epoch, of_step: bool) -> Vec<Emission> {
        assert!(epoch > self.epoch, "{epoch} does not follow {}", self.epoch);
        self.flights.clear();
        let mut failed = Vec::new();
        for slot in std::mem::take(&mut self.running).into_iter().rev() {
            let mut sequence = self.vacate(slot);
            let guilty = of_step && sequence.is_in_flight() && sequence.blame();
            sequence.release();
            if guilty {
                let why = "the engine died twice computing this request, and again when it was \
                           tried alone";
                failed.push(self.end(&sequence, FinishReason::Failed(why.to_owned())));
            } else {
                self.waiting.insert(sequence);
            }
        }
        self.epoch = epoch;
        self.next_step = 0;
        self.pool.clear();
        self.empty = all_slots(self.limits.max_num_seqs);
        self.released.clear();
        failed
    }

    /// Changes the KV cache to `kv_blocks` blocks. The engines of an epoch may have less memory than
    /// those of the epoch before, or more. Requests that are in the queue stay there.
    ///
    /// # Panics
    /// If `kv_blocks` is 0, or a request has a slot: its blocks would be gone.
    pub fn resize(&mut self, kv_blocks: u32) {
        if kv_blocks == self.limits.kv_blocks {
            return;
        }
        let (running, in_flight) = (self.running.len(), self.flights.len());
        assert_eq!((running, in_flight), (0, 0), "the cache of running requests is not replaced");
        self.limits.kv_blocks = kv_blocks;
        self.pool.replace(kv_blocks);
    }

    /// Takes all slots away, so that [`evacuate`](Self::evacuate) gives every request up. What steps in
    /// flight compute of those requests is not read, and is computed again elsewhere (**S-12**); the
    /// steps hold the blocks of the requests until then.
    pub fn vacate_all(&mut self) {
        for slot in std::mem::take(&mut self.running).into_iter().rev() {
            let mut sequence = self.vacate(slot);
            self.orphan(slot, sequence.release());
            self.waiting.insert(sequence);
        }
    }

    /// Returns the number of steps planned and not applied. A caller keeps the pipeline full by planning
    /// while this number is below its depth.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Returns the gauges and counters of the scheduler.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            waiting_tokens: self.waiting.tokens(),
            in_flight: self.flights.len(),
            kv: self.pool.stats(),
            preemptions: self.preemptions,
            steps: self.steps,
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.generated_tokens,
        }
    }

    /// Takes the last emissions of the requests that [`plan_step`](Self::plan_step) found expired since
    /// the last call (**S-13**).
    pub fn take_expired(&mut self) -> Vec<Emission> {
        std::mem::take(&mut self.expired)
    }

    /// Takes the timings of the requests that ended since the last call. Without calls, all timings
    /// beyond the first [`TIMINGS_MAX`] are lost.
    pub fn take_timings(&mut self) -> Vec<Timings> {
        std::mem::take(&mut self.timings)
    }

    /// Takes the changes of the prefix cache since the last call, at best after every
    /// [`apply`](Self::apply). An epoch begins with a reset (**S-11**). Nothing piles up without calls.
    pub fn take_prefix_events(&mut self) -> Vec<PrefixEvent> {
        self.pool.take_events()
    }

    /// Returns the whole prefix cache, for a reader that lost events (**S-11**). O(blocks).
    pub fn prefix_snapshot(&mut self) -> Vec<PrefixEvent> {
        self.pool.snapshot()
    }

    /// Returns the number of tokens that are known and not computed, of all requests: the work that is
    /// before a request that arrives next. A request that only decodes has one such token. O(running).
    #[must_use]
    pub fn tokens_left(&self) -> usize {
        let running = self.running.iter().map(|&slot| self.sequence(slot).remaining());
        self.waiting.tokens() + running.sum::<usize>()
    }

    /// Gives up every request without a slot, which after a [`restart`](Self::restart) are all requests,
    /// for another scheduler to [`adopt`](Self::adopt).
    pub fn evacuate(&mut self) -> Vec<MovedRequest> {
        std::iter::from_fn(|| self.waiting.pop_front().map(MovedRequest)).collect()
    }

    /// Takes in a request that another scheduler with the same limits and the same clock gave up. The
    /// request goes on behind what it has emitted (**S-12**), and its position in the queue is that of
    /// its first arrival.
    pub fn adopt(&mut self, MovedRequest(sequence): MovedRequest) {
        self.waiting.insert(sequence);
    }

    /// Panics unless the books balance (**S-1**, **S-6**). O(blocks); for tests. A debug build makes
    /// this check whenever there is nothing to do.
    ///
    /// # Panics
    /// With both values, where two that have to agree do not.
    pub fn check(&self) {
        let orphans = self.flights.iter().flat_map(|flight| &flight.runs);
        let orphans = orphans.filter_map(|planned| match planned {
            Planned::Orphaned { blocks, .. } => Some(&blocks[..]),
            Planned::Running { .. } => None,
        });
        let tables = self.slots.iter().flatten().map(|sequence| &sequence.blocks[..]);
        self.pool.check(tables.chain(orphans));
        let mut slots: Vec<Slot> = self.running.iter().chain(&self.empty).copied().collect();
        slots.sort_unstable();
        let mut expected = all_slots(self.limits.max_num_seqs);
        expected.reverse();
        assert_eq!(slots, expected, "every slot is either taken or empty");
        let in_order = self.running.is_sorted_by_key(|&slot| self.sequence(slot).order());
        assert!(in_order, "S-3: {:?}", self.running);
        for (at, sequence) in self.slots.iter().enumerate() {
            let taken = self.running.contains(&Slot(as_u32(at)));
            assert_eq!(
                sequence.is_some(),
                taken,
                "the sequence in slot {at}, and its place in order"
            );
        }
    }

    /// Returns the sequence in a slot that is taken.
    fn sequence(&self, slot: Slot) -> &Sequence {
        self.slots[slot.0 as usize].as_ref().expect("a running slot has a sequence")
    }

    fn sequence_mut(&mut self, slot: Slot) -> &mut Sequence {
        self.slots[slot.0 as usize].as_mut().expect("a running slot has a sequence")
    }

    /// Empties a slot. The caller sees to `running` and to the blocks.
    fn vacate(&mut self, slot: Slot) -> Sequence {
        let sequence = self.slots[slot.0 as usize].take().expect("a running slot has a sequence");
        self.released.push(slot);
        self.empty.push(slot);
        sequence
    }

    /// Frees the blocks of a sequence that has ended in slot `ended`, now or with the last of its runs in
    /// flight. The slot can have earlier orphans already.
    fn orphan(&mut self, ended: Slot, mut blocks: Vec<BlockId>) {
        let runs = self.flights.iter_mut().rev().flat_map(|flight| &mut flight.runs);
        for planned in runs {
            if matches!(planned, Planned::Running { slot, .. } if *slot == ended) {
                *planned = Planned::Orphaned { slot: ended, blocks: std::mem::take(&mut blocks) };
            }
        }
        self.pool.release(&blocks);
    }

    /// Ends the requests whose deadline has passed, before any request takes a slot (**S-13**).
    fn expire(&mut self) {
        while let Some(sequence) = self.waiting.pop_expired(self.clock) {
            let emission = self.end(&sequence, FinishReason::Expired);
            self.expired.push(emission);
        }
    }

    /// Ends a request without a token.
    fn end(&mut self, sequence: &Sequence, reason: FinishReason) -> Emission {
        self.record(sequence);
        Emission { finish: Some(reason), ..sequence.emission() }
    }

    /// Keeps the timings of a request that has ended.
    fn record(&mut self, sequence: &Sequence) {
        if self.timings.len() < TIMINGS_MAX {
            self.timings.push(sequence.timings(self.clock));
        }
    }
}

/// Returns all slots, lowest last, so that the lowest is given first.
fn all_slots(max_num_seqs: usize) -> Vec<Slot> {
    (0..as_u32(max_num_seqs)).rev().map(Slot).collect()
}
