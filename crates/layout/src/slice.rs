//! Even division of a count, the remainder to the first parts.

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
    /// Number of units.
    pub count: u64,
}

// === impl Slice ===

impl Slice {
    /// Returns part `at` of `units` units divided into `parts` parts: sizes differ by at most one, the larger
    /// parts first.
    #[must_use]
    pub fn even(units: u64, parts: u64, at: u64) -> Self {
        let parts = parts.max(1);
        let (base, larger) = (units / parts, units % parts);
        Self {
            first: base.saturating_mul(at).saturating_add(at.min(larger)),
            count: base + u64::from(at < larger),
        }
    }

    /// Returns the unit after the last.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}
