//! Settling: taking in the outcome of a step.

use std::time::Duration;

use playhouse_types::{Emission, RunOutcome, Slot, StepId, StepOutcome};

use super::{Flight, Planned, Scheduler};
use crate::served::GENERATED_COST;

/// The difference between an outcome and the plan that it should match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenContract {
    /// No step is in flight, so no outcome was to come.
    #[error("an outcome of {found} came, and no step is in flight")]
    NoPlan {
        /// The step of the outcome.
        found: StepId,
    },
    /// The outcome is of another step than the oldest in flight.
    #[error("an outcome of {found} came, and that of {step} is due")]
    OtherStep {
        /// The oldest step in flight.
        step: StepId,
        /// The step of the outcome.
        found: StepId,
    },
    /// The number of entries differs from the number of runs.
    #[error("the outcome of {step} has {found} runs instead of {runs}")]
    Runs {
        /// The step of the plan.
        step: StepId,
        /// The number of runs of the plan.
        runs: usize,
        /// The number of runs of the outcome.
        found: usize,
    },
    /// The runs are not in plan order.
    #[error("the outcome of {step} has a run of {found} where the plan has {slot}")]
    OtherSlot {
        /// The step of the plan.
        step: StepId,
        /// The slot in the plan.
        slot: Slot,
        /// The slot in the outcome.
        found: Slot,
    },
    /// A token is missing, or there is one too many.
    #[error("the outcome of {step} has {found} tokens for {slot} instead of {}", u8::from(*samples))]
    Sampled {
        /// The step of the plan.
        step: StepId,
        /// The slot of the run.
        slot: Slot,
        /// Whether the run samples a token.
        samples: bool,
        /// The number of tokens in the outcome.
        found: usize,
    },
    /// Prompt log-probabilities are missing, or there are too many.
    #[error(
        "the outcome of {step} has {found} prompt log-probabilities for {slot} instead of \
         {prompt_logprobs}"
    )]
    PromptLogprobs {
        /// The step of the plan.
        step: StepId,
        /// The slot of the run.
        slot: Slot,
        /// The number of prompt log-probabilities that the run brings.
        prompt_logprobs: usize,
        /// The number of prompt log-probabilities in the outcome.
        found: usize,
    },
}

// === impl Scheduler ===

impl Scheduler {
    /// Takes in the outcome of the oldest step in flight. Returns the emissions of the step, in plan
    /// order: one for each request that has a token or prompt log-probabilities to report. An outcome of
    /// another epoch is ignored.
    ///
    /// # Errors
    /// If the outcome does not match the oldest plan, run by run. Nothing has changed then (**S-17**).
    pub fn apply(
        &mut self,
        outcome: StepOutcome,
        now: Duration,
    ) -> Result<Vec<Emission>, BrokenContract> {
        if outcome.epoch != self.epoch {
            return Ok(Vec::new());
        }
        self.check_outcome(&outcome)?;
        self.clock = self.clock.max(now);
        let flight = self.flights.pop_front().expect("an outcome that was checked has a plan");
        let Flight { planned, prefill, runs, .. } = flight;
        self.steps += 1;
        self.tempo.landed(planned, self.clock, prefill);
        let mut emissions = Vec::with_capacity(runs.len());
        for (planned, run) in runs.into_iter().zip(outcome.runs) {
            match planned {
                Planned::Running { slot, tokens } => {
                    emissions.extend(self.settle(slot, tokens, run));
                }
                Planned::Orphaned { blocks, .. } => self.pool.release(&blocks),
            }
        }
        if emissions.iter().any(|emission| emission.finish.is_some()) {
            self.running.retain(|slot| self.slots[slot.0 as usize].is_some());
        }
        Ok(emissions)
    }

    /// Compares an outcome with the oldest plan.
    fn check_outcome(&self, outcome: &StepOutcome) -> Result<(), BrokenContract> {
        let found = outcome.step;
        let flight = self.flights.front().ok_or(BrokenContract::NoPlan { found })?;
        let step = flight.step;
        if found != step {
            return Err(BrokenContract::OtherStep { step, found });
        }
        let (runs, found) = (flight.runs.len(), outcome.runs.len());
        if runs != found {
            return Err(BrokenContract::Runs { step, runs, found });
        }
        for (planned, run) in flight.runs.iter().zip(&outcome.runs) {
            let slot = planned.slot();
            if run.slot != slot {
                return Err(BrokenContract::OtherSlot { step, slot, found: run.slot });
            }
            // The outcome of a sequence that has ended since is not read.
            let Planned::Running { tokens, .. } = planned else { continue };
            let (samples, prompt_logprobs) = self.sequence(slot).expects(*tokens);
            let found = run.sampled.len();
            if found != usize::from(samples) {
                return Err(BrokenContract::Sampled { step, slot, samples, found });
            }
            let found = run.prompt_logprobs.len();
            if found != prompt_logprobs {
                return Err(BrokenContract::PromptLogprobs { step, slot, prompt_logprobs, found });
            }
        }
        Ok(())
    }

    /// Takes in one run of a sequence that has not ended.
    fn settle(&mut self, slot: Slot, tokens: usize, run: RunOutcome) -> Option<Emission> {
        let now = self.clock;
        let sequence = self.sequence_mut(slot);
        let start = sequence.advance(tokens);
        let prompt = start.min(sequence.prompt_len())..sequence.computed.min(sequence.prompt_len());
        let sampled = run.sampled.into_iter().next();
        let tenant = sequence.terms.tenant;

        let mut emission = sequence.emission();
        emission.prompt_logprobs = sequence.report(start, run.prompt_logprobs);
        emission.finish = sampled.as_ref().and_then(|s| sequence.push(s.token, now));
        emission.token = sampled;
        self.prompt_tokens += prompt.len() as u64;
        let samples = emission.token.is_some();
        self.generated_tokens += u64::from(samples);
        if samples {
            self.waiting.charge(tenant, GENERATED_COST);
        }
        self.publish(slot);
        if emission.finish.is_some() {
            let mut sequence = self.vacate(slot);
            self.orphan(slot, sequence.release());
            self.record(&sequence);
        }
        (emission.token.is_some() || !emission.prompt_logprobs.is_empty()).then_some(emission)
    }

    /// Offers the blocks that a sequence has filled to the prefix index (**S-8**).
    fn publish(&mut self, slot: Slot) {
        let sequence = self.slots[slot.0 as usize].as_mut();
        let sequence = sequence.expect("a running slot has a sequence");
        let Some(chain) = &sequence.chain else { return };
        let full = self.limits.block_size.full_blocks(sequence.computed);
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
            Self::Running { slot, .. } | Self::Orphaned { slot, .. } => slot,
        }
    }
}
