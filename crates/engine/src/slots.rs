//! The sequences of an engine.

use playhouse_types::Slot;

use crate::sequence_state::SequenceState;

/// The sequences of an engine, by slot.
pub(crate) struct Slots(Vec<Option<SequenceState>>);

// === impl Slots ===

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| None).collect())
    }

    /// Returns the content of a slot, occupied or not.
    ///
    /// # Panics
    /// When there is no such slot.
    pub(crate) fn slot(&mut self, slot: Slot) -> &mut Option<SequenceState> {
        let count = self.0.len();
        self.0.get_mut(slot.0 as usize).unwrap_or_else(|| panic!("{slot}: of {count} slots"))
    }

    /// Returns the sequence in a slot.
    ///
    /// # Panics
    /// When the slot is empty.
    pub(crate) fn occupied(&mut self, slot: Slot) -> &mut SequenceState {
        self.slot(slot).as_mut().unwrap_or_else(|| panic!("{slot}: run while empty"))
    }

    /// Returns the sequence of a run of the batch.
    ///
    /// # Panics
    /// When the slot is empty.
    pub(crate) fn get(&self, slot: Slot) -> &SequenceState {
        self.0[slot.0 as usize].as_ref().expect("a run of the batch occupies its slot")
    }
}
