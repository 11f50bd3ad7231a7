//! What one step feeds, and what becomes of its outputs.

use std::ops::Range;

use playhouse_model::Chunk;
use playhouse_ops::sampling::{LogitsRow, RowOutcome};
use playhouse_types::{Run, RunOutcome, Slot, TokenId};

use crate::sequence_state::SequenceState;

/// The runs of one step, taken into the sequences they belong to.
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

/// What becomes of one output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Index of its run.
    pub(crate) run: usize,
    /// Report the log-probability of this prompt token.
    pub(crate) prompt_token: Option<TokenId>,
    /// Sample the next token.
    pub(crate) sample: bool,
}

/// The sequences of an engine, by slot.
pub(crate) struct Slots(Vec<Option<SequenceState>>);

// === impl Batch ===

impl Batch {
    /// Takes the blocks that are new with each run into its sequence.
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

    /// What to feed through the model.
    pub(crate) fn chunks<'a>(&self, slots: &'a Slots) -> Vec<Chunk<'a>> {
        let chunk = |run: &BatchRun| slots.get(run.slot).chunk(run.fed.clone(), run.wanted.clone());
        self.runs.iter().map(chunk).collect()
    }

    /// What is wanted of the logits of each output.
    pub(crate) fn logits_rows<'a>(&self, slots: &'a Slots) -> Vec<LogitsRow<'a>> {
        let row = |output: &Output| slots.get(self.runs[output.run].slot).logits_row(output);
        self.outputs.iter().map(row).collect()
    }

    /// What came of each run, given what came of each output. Sequences remember what was sampled.
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

// === impl Slots ===

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| None).collect())
    }

    /// The slot, occupied or not.
    ///
    /// # Panics
    /// When there is no such slot.
    pub(crate) fn slot(&mut self, slot: Slot) -> &mut Option<SequenceState> {
        let count = self.0.len();
        self.0.get_mut(slot.0 as usize).unwrap_or_else(|| panic!("{slot}: of {count} slots"))
    }

    /// The sequence in a slot.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn occupied(&mut self, slot: Slot) -> &mut SequenceState {
        self.slot(slot).as_mut().unwrap_or_else(|| panic!("{slot}: run while empty"))
    }

    fn get(&self, slot: Slot) -> &SequenceState {
        self.0[slot.0 as usize].as_ref().expect("a run of the batch occupies its slot")
    }
}
