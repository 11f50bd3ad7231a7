//! Taking in what a step computed.

use std::time::Duration;

use playhouse_types::{BLOCK_TOKENS, Emission, RunOutcome, Slot, StepOutcome};

use super::{Flight, Planned, Scheduler};
use crate::served::GENERATED_COST;

// === impl Scheduler ===

impl Scheduler {
    /// Takes in the outcome of the oldest step in flight. Returns what it produced, in plan order:
    /// one emission per request that has a token or prompt log-probabilities to report. An outcome
    /// of another epoch is ignored.
    ///
    /// # Panics
    /// If the outcome is not that of the oldest plan, run by run: the engine broke the contract.
    pub fn apply(&mut self, outcome: StepOutcome, now: Duration) -> Vec<Emission> {
        self.clock = self.clock.max(now);
        if outcome.epoch != self.epoch {
            return Vec::new();
        }
        let flight = self.flights.pop_front().expect("an outcome follows its plan");
        let Flight { step, planned, prefill, runs } = flight;
        assert_eq!(outcome.step, step, "outcomes come in the order of the plans");
        assert_eq!(outcome.runs.len(), runs.len(), "{step} has one outcome per run");
        self.steps += 1;
        self.tempo.landed(planned, self.clock, prefill);
        let mut emissions = Vec::with_capacity(runs.len());
        for (planned, run) in runs.into_iter().zip(outcome.runs) {
            assert_eq!(run.slot, planned.slot(), "the outcomes of {step} are in plan order");
            match planned {
                Planned::Seated { slot, tokens } => {
                    emissions.extend(self.settle(slot, tokens, run));
                }
                Planned::Orphaned { blocks, .. } => self.pool.release(&blocks),
            }
        }
        if emissions.iter().any(|emission| emission.finish.is_some()) {
            self.running.retain(|slot| self.seats[slot.0 as usize].is_some());
        }
        emissions
    }

    /// Takes in one run of a sequence that is still wanted.
    fn settle(&mut self, slot: Slot, tokens: usize, run: RunOutcome) -> Option<Emission> {
        let now = self.clock;
        let sequence = self.seated_mut(slot);
        let start = sequence.advance(tokens);
        let prompt = start.min(sequence.prompt_len())..sequence.computed.min(sequence.prompt_len());
        let samples = sequence.remaining() == 0;
        let tenant = sequence.terms.tenant;
        assert_eq!(run.sampled.is_some(), samples, "{slot} samples a token when all are computed");

        let mut emission = sequence.emission();
        emission.prompt_logprobs = sequence.report(start, run.prompt_logprobs);
        emission.finish = run.sampled.as_ref().and_then(|s| sequence.push(s.token, now));
        emission.token = run.sampled;
        self.prompt_tokens += prompt.len() as u64;
        self.generated_tokens += u64::from(samples);
        if samples {
            self.waiting.charge(tenant, GENERATED_COST);
        }
        self.publish(slot);
        if emission.finish.is_some() {
            let mut sequence = self.vacate(slot);
            self.orphan(slot, sequence.unseat());
            self.record(&sequence);
        }
        (emission.token.is_some() || !emission.prompt_logprobs.is_empty()).then_some(emission)
    }

    /// Offers the blocks which a sequence has filled to the prefix index (**S-8**).
    fn publish(&mut self, slot: Slot) {
        let seat = &mut self.seats[slot.0 as usize];
        let sequence = seat.as_mut().expect("a running slot has a sequence");
        let Some(chain) = &sequence.chain else { return };
        let full = sequence.computed / BLOCK_TOKENS;
        for at in sequence.published..full {
            self.pool.publish(sequence.blocks[at], chain.hashes()[at]);
        }
        sequence.published = full;
    }
}

// === impl Planned ===

impl Planned {
    fn slot(&self) -> Slot {
        match *self {
            Self::Seated { slot, .. } | Self::Orphaned { slot, .. } => slot,
        }
    }
}
