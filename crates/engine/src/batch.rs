//! The input of one step, and the use of its outputs.

use std::ops::Range;

use playhouse_model::Chunk;
use playhouse_ops::sampling::{LogitsRow, RowOutcome};
use playhouse_types::{Run, RunOutcome, Slot};

use crate::output::Output;
use crate::slots::Slots;

/// The runs of one step, after their blocks were added to their sequences.
pub(crate) struct Batch {
    runs: Vec<BatchRun>,
    /// Every wanted output, in the order of the runs, then of their rows.
    outputs: Vec<Output>,
}

/// Rows of one sequence.
struct BatchRun {
    slot: Slot,
    /// Positions that are fed.
    fed: Range<usize>,
    /// Rows among them whose outputs are wanted.
    wanted: Range<usize>,
}

// === impl Batch ===

impl Batch {
    /// Adds the new blocks of each run to its sequence.
    ///
    /// # Panics
    /// When a run does not fit its sequence, or two runs are of one slot: broken invariants of the planner.
    pub(crate) fn new(runs: &[Run], slots: &mut Slots, kv_blocks: usize) -> Self {
        let mut batch = Self { runs: Vec::with_capacity(runs.len()), outputs: Vec::new() };
        for (index, run) in runs.iter().enumerate() {
            let slot = run.slot;
            let again = batch.runs.iter().any(|other| other.slot == slot);
            assert!(!again, "{slot}: two runs in one step");
            let sequence = slots.occupied(slot);
            let fed = sequence.begin(run, kv_blocks);
            let (wanted, outputs) = sequence.outputs(index, run);
            batch.runs.push(BatchRun { slot, fed, wanted });
            batch.outputs.extend(outputs);
        }
        batch
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the chunks to feed through the model.
    pub(crate) fn chunks<'a>(&self, slots: &'a Slots) -> Vec<Chunk<'a>> {
        let chunk = |run: &BatchRun| slots.get(run.slot).chunk(run.fed.clone(), run.wanted.clone());
        self.runs.iter().map(chunk).collect()
    }

    /// Returns the request for the logits of each output.
    pub(crate) fn logits_rows<'a>(&self, slots: &'a Slots) -> Vec<LogitsRow<'a>> {
        let row = |output: &Output| slots.get(self.runs[output.run].slot).logits_row(output);
        self.outputs.iter().map(row).collect()
    }

    /// Returns the outcome of each run, given the outcome of each output. Stores sampled tokens in their
    /// sequences.
    pub(crate) fn outcomes(self, rows: Vec<RowOutcome>, slots: &mut Slots) -> Vec<RunOutcome> {
        let empty = |run: &BatchRun| RunOutcome {
            slot: run.slot,
            sampled: Vec::new(),
            prompt_logprobs: Vec::new(),
        };
        let mut outcomes: Vec<_> = self.runs.iter().map(empty).collect();
        for (output, row) in self.outputs.iter().zip(rows) {
            let outcome = &mut outcomes[output.run];
            outcome.prompt_logprobs.extend(row.reported);
            if let Some(sampled) = row.sampled {
                slots.occupied(outcome.slot).remember(sampled.token);
                outcome.sampled.push(sampled);
            }
        }
        outcomes
    }
}
