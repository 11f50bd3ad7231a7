//! The batch state and the execution of a step.

use playhouse_model::{ForwardError, KvCache, Model};
use playhouse_types::{Appended, Epoch, Run, RunOutcome, Slot, StepId, StepOutcome, StepPlan};

use crate::EngineConfig;
use crate::sequence_state::SequenceState;

/// Rows of logits held at a time: with a vocabulary of 150,000 they take 38 MB, where those of a
/// whole prompt with log-probabilities would take gigabytes.
const LOGITS_ROWS_MAX: usize = 64;

/// Executes plans, one after the other.
pub(crate) struct Worker<'a> {
    model: &'a Model,
    config: &'a EngineConfig,
    cache: KvCache,
    slots: Vec<Option<SequenceState>>,
    next_step: StepId,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error("got a plan of {given}, this engine runs {own}")]
    Epoch { given: Epoch, own: Epoch },
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error("{0}")]
    Build(String),
}

// === impl StepError ===

impl StepError {
    /// Whether what was computed may be to blame.
    pub(crate) fn is_of_step(&self) -> bool {
        !matches!(self, Self::Forward(ForwardError::Rank(_)) | Self::Build(_))
    }
}

// === impl Worker ===

impl<'a> Worker<'a> {
    pub(crate) fn new(model: &'a Model, config: &'a EngineConfig) -> Result<Self, StepError> {
        let cache = KvCache::new(model.spec(), config.kv_blocks, model.dtype())?;
        let slots = (0..config.max_num_seqs).map(|_| None).collect();
        Ok(Self { model, config, cache, slots, next_step: StepId(0) })
    }

    /// Executes a plan. The rank that samples has the outcome; the others took part.
    pub(crate) fn execute(&mut self, plan: StepPlan) -> Result<Option<StepOutcome>, StepError> {
        let StepPlan { epoch, step, released, admitted, runs } = plan;
        if epoch != self.config.epoch {
            return Err(StepError::Epoch { given: epoch, own: self.config.epoch });
        }
        assert_eq!(step, self.next_step, "steps come in order");
        self.next_step.0 += 1;
        for slot in released {
            let sequence_state = self.slot_mut(slot).take();
            assert!(sequence_state.is_some(), "{slot}: released while empty");
        }
        for sequence in admitted {
            let sequence_state = self.slot_mut(sequence.slot);
            assert!(sequence_state.is_none(), "{}: admitted while taken", sequence.slot);
            *sequence_state = Some(SequenceState::new(sequence));
        }

        self.append(&runs)?;
        let kv_blocks = self.config.kv_blocks;
        let (mut chunks, mut outputs) = (Vec::new(), Vec::new());
        for (index, run) in runs.iter().enumerate() {
            let again = runs[..index].iter().any(|other| other.slot == run.slot);
            assert!(!again, "{}: two runs in one step", run.slot);
            let (chunk, uses) = self.occupied(run.slot).begin(run, kv_blocks);
            chunks.push(chunk);
            outputs.extend(uses.into_iter().map(|output| (index, output)));
        }
        let outcome = |slot| RunOutcome { slot, sampled: None, prompt_logprobs: Vec::new() };
        let mut outcomes: Vec<_> = runs.iter().map(|run| outcome(run.slot)).collect();
        if !chunks.is_empty() {
            let Some(hidden) = self.model.forward(&chunks, &self.cache)? else {
                return Ok(None);
            };
            let mut first = 0;
            for part in outputs.chunks(LOGITS_ROWS_MAX) {
                let logits = self.model.logits(&hidden, first..first + part.len())?;
                first += part.len();
                for (&(run, output), logits) in part.iter().zip(&logits) {
                    let outcome = &mut outcomes[run];
                    let sequence_state = self.occupied(outcome.slot);
                    if let Some(token) = output.prompt_token {
                        outcome.prompt_logprobs.push(sequence_state.prompt_logprobs(token, logits));
                    }
                    if output.sample {
                        outcome.sampled = Some(sequence_state.sample(logits));
                    }
                }
            }
        }
        let outcome = StepOutcome { epoch, step, runs: outcomes };
        Ok(self.model.has_logits().then_some(outcome))
    }

    /// Adds to the sequences what was sampled from their last runs. Samples that no plan brings are
    /// shared by the rank that has them.
    fn append(&mut self, runs: &[Run]) -> Result<(), StepError> {
        let mut own = Vec::new();
        for run in runs {
            match run.appended {
                Appended::Nothing => {}
                Appended::Token(token) => self.occupied(run.slot).append(token),
                Appended::OwnSample => own.push(run.slot),
            }
        }
        if own.is_empty() {
            return Ok(());
        }
        let has_samples = self.model.has_logits();
        let sample = |slot: &Slot| match self.occupied(*slot).last_sample() {
            None if has_samples => panic!("{slot}: nothing was sampled from the last run"),
            sample => sample.unwrap_or_default(),
        };
        let samples = own.iter().map(sample).collect();
        for (slot, token) in own.into_iter().zip(self.model.share_samples(samples)?) {
            self.occupied(slot).append(token);
        }
        Ok(())
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut Option<SequenceState> {
        let slots = self.slots.len();
        self.slots.get_mut(slot.0 as usize).unwrap_or_else(|| panic!("{slot}: of {slots} slots"))
    }

    fn occupied(&mut self, slot: Slot) -> &mut SequenceState {
        self.slot_mut(slot).as_mut().unwrap_or_else(|| panic!("{slot}: run while empty"))
    }
}
