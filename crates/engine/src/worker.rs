//! The execution of a step.

use playhouse_model::{ForwardError, Hidden, KvCache, Model};
use playhouse_types::{Appended, Epoch, Run, Slot, StepId, StepOutcome, StepPlan};

use crate::batch::Batch;
use crate::config::EngineConfig;
use crate::sequence_state::SequenceState;
use crate::slots::Slots;

/// Executes plans, one after the other.
pub(crate) struct Worker<'a> {
    model: &'a Model,
    config: &'a EngineConfig,
    cache: KvCache,
    slots: Slots,
    next_step: StepId,
}

/// A step that is being computed.
pub(crate) struct Launched {
    step: StepId,
    batch: Batch,
    /// Output of the last layer, on the ranks that have it.
    hidden: Option<Hidden>,
}

/// The reason why a step failed.
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
    /// Returns whether the computed requests may have caused the failure.
    pub(crate) fn is_of_step(&self) -> bool {
        !matches!(self, Self::Forward(ForwardError::Rank(_)) | Self::Build(_))
    }
}

// === impl Worker ===

impl<'a> Worker<'a> {
    pub(crate) fn new(model: &'a Model, config: &'a EngineConfig) -> Result<Self, StepError> {
        let EngineConfig { kv_blocks, block_size, .. } = *config;
        let cache = KvCache::new(model.spec(), kv_blocks, block_size, model.dtype());
        let cache = cache.map_err(|why| {
            StepError::Build(format!("cannot make a KV cache of {kv_blocks} blocks: {why}"))
        })?;
        let slots = Slots::new(config.max_num_seqs);
        Ok(Self { model, config, cache, slots, next_step: StepId(0) })
    }

    /// Applies a plan to the sequences and starts its forward pass.
    ///
    /// # Errors
    /// When the plan is of another epoch, or the forward pass fails.
    pub(crate) fn launch(&mut self, plan: StepPlan) -> Result<Launched, StepError> {
        let StepPlan { epoch, step, released, admitted, runs } = plan;
        if epoch != self.config.epoch {
            return Err(StepError::Epoch { given: epoch, own: self.config.epoch });
        }
        assert_eq!(step, self.next_step, "steps come in order");
        self.next_step.0 += 1;
        for slot in released {
            let sequence = self.slots.slot(slot).take();
            assert!(sequence.is_some(), "{slot}: released while empty");
        }
        for admitted in admitted {
            let slot = admitted.slot;
            let before =
                self.slots.slot(slot).replace(SequenceState::new(admitted, self.config.block_size));
            assert!(before.is_none(), "{slot}: admitted while taken");
        }
        self.append(&runs)?;
        let batch = Batch::new(&runs, &mut self.slots, self.config.kv_blocks);
        let hidden = match batch.is_empty() {
            true => None,
            false => self.model.forward(&batch.chunks(&self.slots), &self.cache)?,
        };
        Ok(Launched { step, batch, hidden })
    }

    /// Waits for a step, and samples. The rank that samples returns the outcome; the other ranks take part.
    ///
    /// # Errors
    /// When sampling fails, or another rank is lost.
    pub(crate) fn wait(&mut self, launched: Launched) -> Result<Option<StepOutcome>, StepError> {
        let Launched { step, batch, hidden } = launched;
        let rows = match &hidden {
            Some(hidden) => self.model.sample(hidden, &batch.logits_rows(&self.slots))?,
            None => Some(Vec::new()),
        };
        let Some(rows) = rows.filter(|_| self.model.has_logits()) else { return Ok(None) };
        let runs = batch.outcomes(rows, &mut self.slots);
        Ok(Some(StepOutcome { epoch: self.config.epoch, step, runs }))
    }

    /// Appends the sampled tokens of the last runs to their sequences. The rank that has the samples shares
    /// those that no plan carries.
    fn append(&mut self, runs: &[Run]) -> Result<(), StepError> {
        let mut own = Vec::new();
        for run in runs {
            match run.appended {
                Appended::Nothing => {}
                Appended::Token(token) => self.slots.occupied(run.slot).append(token),
                Appended::OwnSample => own.push(run.slot),
            }
        }
        if own.is_empty() {
            return Ok(());
        }
        let has_samples = self.model.has_logits();
        let sample = |slot: &Slot| match self.slots.occupied(*slot).last_sample() {
            None if has_samples => panic!("{slot}: nothing was sampled from the last run"),
            sample => sample.unwrap_or_default(),
        };
        let samples = own.iter().map(sample).collect();
        for (slot, token) in own.into_iter().zip(self.model.share_samples(samples)?) {
            self.slots.occupied(slot).append(token);
        }
        Ok(())
    }
}
