//! Planning: deciding what the next step computes.

use std::sync::Arc;
use std::time::Duration;

use playhouse_kvcache::Prefix;
use playhouse_types::{Admitted, BlockId, RequestId, Run, Slot, StepId, StepPlan};

use super::{Flight, Planned, Scheduler};
use crate::Limits;
use crate::sequence::{Sequence, as_u32};

/// The part of a step's budget that is for short prompts, as a divisor (**S-15**).
const SHORT_PART: usize = 4;

/// A plan in the making.
struct Draft {
    /// The number of tokens that may still be fed.
    budget: usize,
    /// The number of requests that may still run.
    share: usize,
    /// The value of [`Limits::lookahead`].
    lookahead: bool,
    admitted: Vec<Admitted>,
    runs: Vec<Run>,
    planned: Vec<Planned>,
}

/// The blocks of a sequence without a slot for which there is room.
struct Admissible {
    prefix: Prefix,
    new_blocks: usize,
}

/// The suspect that runs alone (**S-9**).
enum Suspect {
    Running(Slot),
    Queued(Admissible),
}

/// The result of asking for room for the next token of a running sequence.
enum Growth {
    /// There is room, with the block that was added for the token, if one was.
    Room(Vec<BlockId>),
    /// No block is free now: a step in flight writes to the blocks of the sequence that has to give way.
    /// Its outcome will come.
    Starved,
    /// The sequence itself had to give way.
    Preempted,
}

// === impl Scheduler ===

impl Scheduler {
    /// Plans the next step of the engine; `None` when there is nothing to compute (or nothing before
    /// another outcome has come). Every plan has to be executed, and its outcome applied.
    ///
    /// Slots freed since the last plan are in `released`. They wait for the next plan that has runs;
    /// only when no such plan is in sight (nothing to run and nothing in flight) a plan without runs
    /// goes out, so that an idle engine forgets them. A slot can be in `released` and in `admitted` of
    /// the same plan. The blocks for all known tokens of an admitted request come with its first run.
    pub fn plan_step(&mut self, now: Duration) -> Option<StepPlan> {
        self.clock = self.clock.max(now);
        self.expire();
        let mut draft = Draft::new(&self.limits, self.budget(), self.share());
        match self.suspect() {
            Some(_) if !self.flights.is_empty() => return None,
            // What it was blamed for may reach beyond its known tokens, by one that was sampled since.
            Some(Suspect::Running(slot)) => match self.grow(slot) {
                Growth::Room(new_blocks) => {
                    let tokens_max = draft.budget;
                    draft.run(slot, self.sequence_mut(slot), tokens_max, new_blocks);
                }
                // The suspect waits for room, as a suspect in the queue does.
                Growth::Starved | Growth::Preempted => drop(self.plan_running(&mut draft)),
            },
            Some(Suspect::Queued(admissible)) => {
                let head = self.waiting.pop_front().expect("the suspect is the head of the queue");
                self.admit(head, admissible, &mut draft);
            }
            None => {
                let (short, tokens) = self.short(draft.budget);
                draft.budget -= tokens;
                let has_blocks = self.plan_running(&mut draft);
                draft.budget += tokens;
                if has_blocks {
                    self.plan_short(short, &mut draft);
                    self.plan_waiting(&mut draft);
                }
            }
        }
        self.seal(draft)
    }

    /// Returns the token budget of one step (**S-6**, **S-16**): one token for each request that can
    /// run, and those of prompts.
    fn budget(&self) -> usize {
        let prefill = self.tempo.prefill(self.limits.prefill_time);
        self.limits.max_num_batched_tokens.min(prefill.saturating_add(self.running.len()))
    }

    /// Returns the maximum number of requests of one step (**S-10**).
    fn share(&self) -> usize {
        let soon = self.running.len() + self.waiting.len().min(self.empty.len());
        soon.div_ceil(self.limits.micro_batches).clamp(1, self.limits.micro_batch_max)
    }

    /// Returns the first suspect, unless the suspect waits for room.
    fn suspect(&self) -> Option<Suspect> {
        let is_suspect = |slot: &&Slot| self.sequence(**slot).suspect_until.is_some();
        if let Some(&slot) = self.running.iter().find(is_suspect) {
            return Some(Suspect::Running(slot));
        }
        let head = self.waiting.front()?;
        head.suspect_until?;
        self.admissible(head, self.growing()).map(Suspect::Queued)
    }

    /// Gives every running sequence its next tokens, in order. Returns whether there
    /// were blocks enough for all of them.
    fn plan_running(&mut self, draft: &mut Draft) -> bool {
        let lookahead = self.limits.lookahead;
        let can_run = |slot: &&Slot| self.sequence(**slot).feedable(lookahead) > 0;
        let mut behind = self.running.iter().filter(can_run).count();
        let preemptions = self.preemptions;
        let mut starved = false;
        let mut at = 0;
        while at < self.running.len() && draft.budget > 0 && draft.share > 0 {
            let slot = self.running[at];
            at += 1;
            let sequence = self.sequence(slot);
            if sequence.feedable(lookahead) == 0 {
                continue;
            }
            behind -= 1;
            // The steps of the sequence that may have to give way come back first.
            if starved && sequence.is_in_flight() {
                continue;
            }
            match self.grow(slot) {
                Growth::Room(new_blocks) => {
                    // S-7: a chunk leaves one token for each sequence that is still to come.
                    let tokens_max = draft.budget.saturating_sub(behind).max(1);
                    draft.run(slot, self.sequence_mut(slot), tokens_max, new_blocks);
                }
                Growth::Starved => starved = true,
                Growth::Preempted => break,
            }
        }
        !starved && self.preemptions == preemptions
    }

    /// Makes room for the next token of a running sequence, at the expense of the last in order. A sequence that is alone always finds room: no context is longer than the pool.
    fn grow(&mut self, slot: Slot) -> Growth {
        if !self.sequence(slot).needs_block() {
            return Growth::Room(Vec::new());
        }
        while !self.pool.can_take(1) {
            let last = *self.running.last().expect("the sequence that grows is running");
            if self.sequence(last).is_in_flight() {
                return Growth::Starved;
            }
            self.preempt(last);
            if last == slot {
                return Growth::Preempted;
            }
        }
        let new_blocks = self.pool.take(1);
        self.sequence_mut(slot).blocks.extend_from_slice(&new_blocks);
        Growth::Room(new_blocks)
    }

    /// Takes everything from the last sequence in order, and returns it to the queue.
    fn preempt(&mut self, last: Slot) {
        assert_eq!(self.running.pop(), Some(last), "the last in order gives way");
        let mut sequence = self.vacate(last);
        self.pool.release(&sequence.release());
        sequence.preemptions += 1;
        self.preemptions += 1;
        self.waiting.insert(sequence);
    }

    /// Returns the requests that do not wait for the long prompts before them (**S-15**), and the number
    /// of their tokens: none, unless there is room for every request that waits and more to feed than
    /// one step can.
    fn short(&self, budget: usize) -> (Vec<RequestId>, usize) {
        let nobody = (Vec::new(), 0);
        if self.waiting.len() < 2 || self.waiting.len() > self.empty.len() {
            return nobody;
        }
        let running = self.running.iter().map(|&slot| self.sequence(slot));
        let (mut moving, mut tokens) = (0, self.waiting.tokens());
        for feedable in running.map(|running| running.feedable(self.limits.lookahead)) {
            moving += usize::from(feedable > 0);
            tokens += feedable;
        }
        // Each request may fill its last block only in part, and want another.
        let blocks =
            self.limits.block_size.full_blocks(self.waiting.tokens()) + 2 * self.waiting.len();
        if tokens <= budget || !self.pool.can_take(blocks + self.growing()) {
            return nobody;
        }
        // S-7: every request with a slot has its token.
        self.waiting.shortest((budget / SHORT_PART).min(budget.saturating_sub(moving)))
    }

    /// Gives slots to the requests that do not wait, as far as the step has room for them.
    fn plan_short(&mut self, short: Vec<RequestId>, draft: &mut Draft) {
        for id in short {
            if draft.share == 0 {
                break;
            }
            let sequence = self.waiting.remove(id).expect("it waits");
            match self.admissible(&sequence, self.growing()) {
                Some(admissible) => drop(self.admit(sequence, admissible, draft)),
                None => self.waiting.insert(sequence),
            }
        }
    }

    /// Gives slots to the head of the queue while there is room for it.
    fn plan_waiting(&mut self, draft: &mut Draft) {
        if self.waiting.front().is_none() {
            return;
        }
        let mut growing = self.growing();
        while draft.budget > 0
            && draft.share > 0
            && let Some(head) = self.waiting.front()
            && head.suspect_until.is_none()
            && let Some(admissible) = self.admissible(head, growing)
        {
            let head = self.waiting.pop_front().expect("it has a head");
            let slot = self.admit(head, admissible, draft);
            growing += usize::from(self.sequence(slot).may_grow());
        }
    }

    /// Returns the blocks for all known tokens of a sequence, if there are enough of them and a slot is
    /// empty.
    ///
    /// One block is left to each of the `growing` sequences before it. Without those blocks the sequence
    /// would be the first to give way within the steps of one block, its prefill wasted.
    fn admissible(&self, sequence: &Sequence, growing: usize) -> Option<Admissible> {
        if self.empty.is_empty() {
            return None;
        }
        let prefix = match &sequence.chain {
            Some(chain) => self.pool.lookup(chain, sequence.skippable()),
            None => Prefix::default(),
        };
        let new_blocks = self.limits.block_size.blocks_for(sequence.known()) - prefix.blocks.len();
        let fits = self.pool.can_admit(&prefix, new_blocks + growing);
        fits.then_some(Admissible { prefix, new_blocks })
    }

    /// Returns the number of running sequences that will want another block.
    fn growing(&self) -> usize {
        self.running.iter().filter(|&&slot| self.sequence(slot).may_grow()).count()
    }

    /// Gives a slot to a sequence from the queue and plans its first run.
    fn admit(&mut self, mut sequence: Sequence, admissible: Admissible, draft: &mut Draft) -> Slot {
        let Admissible { prefix, new_blocks } = admissible;
        let slot = self.empty.pop().expect("an admissible sequence finds an empty slot");
        let new_blocks = self.pool.admit(&prefix, new_blocks);
        let table = [&prefix.blocks[..], &new_blocks].concat();
        sequence.admit(table, prefix.blocks.len() * self.limits.block_size.tokens(), self.clock);
        draft.admitted.push(Admitted {
            slot,
            tokens: sequence.tokens(),
            prompt_tokens: as_u32(sequence.prompt_len()),
            sampling: Arc::clone(&sequence.request.sampling),
            blocks: prefix.blocks,
        });
        draft.run(slot, &mut sequence, draft.budget, new_blocks);
        self.waiting.charge(sequence.terms.tenant, sequence.remaining());
        let order = sequence.order();
        let at = self.running.partition_point(|&other| self.sequence(other).order() < order);
        self.running.insert(at, slot);
        self.slots[slot.0 as usize] = Some(sequence);
        slot
    }

    /// Turns a draft into the next plan, if it is worth sending.
    fn seal(&mut self, draft: Draft) -> Option<StepPlan> {
        if draft.runs.is_empty() {
            let in_flight = !self.flights.is_empty();
            if in_flight || self.released.is_empty() {
                if cfg!(debug_assertions) && !in_flight {
                    self.check();
                }
                return None;
            }
        }
        let step = StepId(self.next_step);
        self.next_step += 1;
        let tokens: usize = draft.runs.iter().map(|run| run.tokens as usize).sum();
        let prefill = tokens - draft.runs.len();
        let (planned, runs) = (self.clock, draft.planned);
        self.flights.push_back(Flight { step, planned, prefill, runs });
        Some(StepPlan {
            epoch: self.epoch,
            step,
            released: std::mem::take(&mut self.released),
            admitted: draft.admitted,
            runs: draft.runs,
        })
    }
}

// === impl Draft ===

impl Draft {
    fn new(limits: &Limits, budget: usize, share: usize) -> Self {
        let lookahead = limits.lookahead;
        let (runs, planned) = (Vec::with_capacity(share), Vec::with_capacity(share));
        Self { budget, share, lookahead, admitted: Vec::new(), runs, planned }
    }

    /// Feeds a sequence its next tokens, at most `tokens_max`.
    fn run(
        &mut self,
        slot: Slot,
        sequence: &mut Sequence,
        tokens_max: usize,
        new_blocks: Vec<BlockId>,
    ) {
        let tokens = sequence.feedable(self.lookahead).min(tokens_max);
        assert!(tokens > 0, "nothing to feed to {}", sequence.request.id);
        let (start, appended, logits) = sequence.plan(tokens);
        self.budget -= tokens;
        self.share -= 1;
        self.planned.push(Planned::Running { slot, tokens });
        self.runs.push(Run {
            slot,
            start: as_u32(start),
            tokens: as_u32(tokens),
            appended,
            new_blocks,
            logits,
        });
    }
}
