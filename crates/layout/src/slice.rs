//! Even division of a count, remainder to the first.

use serde::{Deserialize, Serialize};

/// Consecutive units: layers, heads, rows of the vocabulary.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Slice {
    /// The first unit.
    pub first: u64,
    /// How many.
    pub count: u64,
}

// === impl Slice ===

impl Slice {
    /// Part `at` of `units` divided into `parts`: sizes differ by at most one, the larger first.
    #[must_use]
    pub fn even(units: u64, parts: u64, at: u64) -> Self {
        let parts = parts.max(1);
        let (base, larger) = (units / parts, units % parts);
        Self {
            first: base.saturating_mul(at).saturating_add(at.min(larger)),
            count: base + u64::from(at < larger),
        }
    }

    /// One past the last unit.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}
