//! Deciding what the next step computes.

use std::sync::Arc;
use std::time::Duration;

use playhouse_kvcache::{Prefix, blocks_for};
use playhouse_types::{Admitted, BLOCK_TOKENS, BlockId, Run, Slot, StepId, StepPlan};

use super::{Flight, Planned, Scheduler};
use crate::sequence::{Sequence, as_u32};

/// A plan in the making.
struct Draft {
    /// Tokens that may still be fed.
    budget: usize,
    /// Requests that may still run.
    share: usize,
    admitted: Vec<Admitted>,
    runs: Vec<Run>,
    planned: Vec<Planned>,
}

/// The head of the queue, when there is room for it.
struct Admissible {
    prefix: Prefix,
    new_blocks: usize,
}

/// Who runs alone (**S-9**).
enum Suspect {
    Seated(Slot),
    Queued(Admissible),
}

/// What came of asking for room for the next token of a running sequence.
enum Growth {
    /// There is room. The block that was added for it, if one was.
    Room(Vec<BlockId>),
    /// No block now: a step in flight writes to those of whoever has to give way. Its outcome
    /// will come.
    Starved,
    /// It had to give way itself.
    Preempted,
}

// === impl Scheduler ===

impl Scheduler {
    /// What the engine shall compute next, or `None` when there is nothing (or nothing before
    /// another outcome has come). Every plan has to be executed, and its outcome applied.
    ///
    /// Seats given up since the last plan are in `released`. They wait for the next plan that has
    /// runs; only when none is in sight (nothing to run and nothing in flight) a plan without runs
    /// goes out, so that an idle engine forgets them. A slot can be in `released` and in `admitted`
    /// of the same plan. The blocks for all known tokens of an admitted request come with its first
    /// run.
    pub fn plan_step(&mut self, now: Duration) -> Option<StepPlan> {
        self.clock = self.clock.max(now);
        let mut draft = Draft::new(self.limits.max_num_batched_tokens, self.share());
        match self.suspect() {
            Some(_) if !self.flights.is_empty() => return None,
            Some(Suspect::Seated(slot)) => {
                draft.run(slot, self.seated_mut(slot), draft.budget, Vec::new());
            }
            Some(Suspect::Queued(admissible)) => {
                self.admit(admissible, &mut draft);
            }
            None => {
                if self.plan_running(&mut draft) {
                    self.plan_waiting(&mut draft);
                }
            }
        }
        self.seal(draft)
    }

    /// Requests of one step (**S-10**).
    fn share(&self) -> usize {
        let soon = self.running.len() + self.waiting.len().min(self.empty.len());
        soon.div_ceil(self.limits.micro_batches).clamp(1, self.limits.micro_batch_max)
    }

    /// The first suspect, unless it waits for room.
    fn suspect(&self) -> Option<Suspect> {
        let is_suspect = |slot: &&Slot| self.seated(**slot).suspect_until.is_some();
        if let Some(&slot) = self.running.iter().find(is_suspect) {
            return Some(Suspect::Seated(slot));
        }
        self.waiting.front()?.suspect_until?;
        self.admissible(self.growing()).map(Suspect::Queued)
    }

    /// Gives every running sequence its next tokens, in order of arrival. Returns whether there
    /// were blocks enough for all of them.
    fn plan_running(&mut self, draft: &mut Draft) -> bool {
        let mut behind = self.running.iter().filter(|&&slot| !self.seated(slot).in_flight).count();
        let preemptions = self.preemptions;
        let mut starved = false;
        let mut at = 0;
        while at < self.running.len() && draft.budget > 0 && draft.share > 0 {
            let slot = self.running[at];
            at += 1;
            if self.seated(slot).in_flight {
                continue;
            }
            behind -= 1;
            match self.grow(slot) {
                Growth::Room(new_blocks) => {
                    // S-7: a chunk leaves one token for each that is still to come.
                    let tokens_max = draft.budget.saturating_sub(behind).max(1);
                    draft.run(slot, self.seated_mut(slot), tokens_max, new_blocks);
                }
                Growth::Starved => starved = true,
                Growth::Preempted => break,
            }
        }
        !starved && self.preemptions == preemptions
    }

    /// Makes room for the next token of a running sequence, at the expense of those that arrived
    /// last. A sequence that is alone always finds room: no context is longer than the pool.
    fn grow(&mut self, slot: Slot) -> Growth {
        if !self.seated(slot).needs_block() {
            return Growth::Room(Vec::new());
        }
        while !self.pool.can_take(1) {
            let last = *self.running.last().expect("the sequence that grows is running");
            if self.seated(last).in_flight {
                return Growth::Starved;
            }
            self.preempt(last);
            if last == slot {
                return Growth::Preempted;
            }
        }
        let new_blocks = self.pool.take(1);
        self.seated_mut(slot).blocks.extend_from_slice(&new_blocks);
        Growth::Room(new_blocks)
    }

    /// Takes everything from the sequence that arrived last, and returns it to the front of the
    /// queue.
    fn preempt(&mut self, last: Slot) {
        assert_eq!(self.running.pop(), Some(last), "the last to arrive gives way");
        let mut sequence = self.vacate(last);
        self.pool.release(&sequence.unseat());
        sequence.preemptions += 1;
        self.preemptions += 1;
        self.waiting.push_front(sequence);
    }

    /// Seats the head of the queue while there is room for it.
    fn plan_waiting(&mut self, draft: &mut Draft) {
        if self.waiting.front().is_none() {
            return;
        }
        let mut growing = self.growing();
        while draft.budget > 0
            && draft.share > 0
            && self.waiting.front().is_some_and(|head| head.suspect_until.is_none())
            && let Some(admissible) = self.admissible(growing)
        {
            let slot = self.admit(admissible, draft);
            growing += usize::from(self.seated(slot).may_grow());
        }
    }

    /// Whether there is a seat for the head of the queue, and blocks for all its known tokens.
    ///
    /// One block is left to each of the `growing` sequences before it. Without them it would be
    /// the first to give way within the next [`BLOCK_TOKENS`] steps, its prefill wasted.
    fn admissible(&self, growing: usize) -> Option<Admissible> {
        let head = self.waiting.front()?;
        if self.empty.is_empty() {
            return None;
        }
        let prefix = match &head.chain {
            Some(chain) => self.pool.lookup(chain, head.skippable()),
            None => Prefix::default(),
        };
        let new_blocks = blocks_for(head.known()) - prefix.blocks.len();
        let fits = self.pool.can_admit(&prefix, new_blocks + growing);
        fits.then_some(Admissible { prefix, new_blocks })
    }

    /// Running sequences that will want another block.
    fn growing(&self) -> usize {
        self.running.iter().filter(|&&slot| self.seated(slot).may_grow()).count()
    }

    /// Seats the head of the queue and plans its first run.
    fn admit(&mut self, admissible: Admissible, draft: &mut Draft) -> Slot {
        let Admissible { prefix, new_blocks } = admissible;
        let mut sequence = self.waiting.pop_front().expect("the head of the queue is admissible");
        let slot = self.empty.pop().expect("there is a seat for whoever is admissible");
        let new_blocks = self.pool.admit(&prefix, new_blocks);
        let table = [&prefix.blocks[..], &new_blocks].concat();
        sequence.seat(table, prefix.blocks.len() * BLOCK_TOKENS, self.clock);
        draft.admitted.push(Admitted {
            slot,
            tokens: sequence.tokens(),
            prompt_tokens: as_u32(sequence.prompt_len()),
            sampling: Arc::clone(&sequence.request.sampling),
            blocks: prefix.blocks,
        });
        draft.run(slot, &mut sequence, draft.budget, new_blocks);
        self.seats[slot.0 as usize] = Some(sequence);
        self.running.push(slot);
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
        self.flights.push_back(Flight { step, runs: draft.planned });
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
    fn new(budget: usize, share: usize) -> Self {
        let (runs, planned) = (Vec::with_capacity(share), Vec::with_capacity(share));
        Self { budget, share, admitted: Vec::new(), runs, planned }
    }

    /// Feeds a sequence its next tokens, at most `tokens_max`.
    fn run(
        &mut self,
        slot: Slot,
        sequence: &mut Sequence,
        tokens_max: usize,
        new_blocks: Vec<BlockId>,
    ) {
        let tokens = sequence.remaining().min(tokens_max);
        assert!(tokens > 0, "nothing to feed to {}", sequence.request.id);
        sequence.in_flight = true;
        self.budget -= tokens;
        self.share -= 1;
        self.planned.push(Planned::Seated { slot, tokens });
        self.runs.push(Run {
            slot,
            start: as_u32(sequence.computed),
            tokens: as_u32(tokens),
            sampled: sequence.tell(),
            new_blocks,
            logits: sequence.logits(tokens),
        });
    }
}
