//! Requests without a seat.

use std::collections::VecDeque;

use playhouse_types::RequestId;

use crate::sequence::Sequence;

/// First in, first out; who lost a seat returns to the front. Counts its tokens as it goes.
///
/// Unbounded here: whoever admits requests (see `cluster`) bounds it by the two counts.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    sequences: VecDeque<Sequence>,
    /// Known tokens of all sequences.
    tokens: usize,
}

// === impl Queue ===

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.sequences.len()
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn front(&self) -> Option<&Sequence> {
        self.sequences.front()
    }

    pub(crate) fn push_back(&mut self, sequence: Sequence) {
        self.tokens += sequence.known();
        self.sequences.push_back(sequence);
    }

    pub(crate) fn push_front(&mut self, sequence: Sequence) {
        self.tokens += sequence.known();
        self.sequences.push_front(sequence);
    }

    /// Before those who arrived later.
    pub(crate) fn insert(&mut self, sequence: Sequence) {
        self.tokens += sequence.known();
        let later = |one: &Sequence| one.arrived > sequence.arrived;
        let at = self.sequences.iter().position(later).unwrap_or(self.sequences.len());
        self.sequences.insert(at, sequence);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Sequence> {
        let sequence = self.sequences.pop_front()?;
        self.tokens -= sequence.known();
        Some(sequence)
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        let at = self.sequences.iter().position(|sequence| sequence.request.id == id)?;
        let sequence = self.sequences.remove(at)?;
        self.tokens -= sequence.known();
        Some(sequence)
    }
}
