//! Deadlines of operations and joins.
#![expect(clippy::disallowed_types, reason = "ranks are threads without a runtime")]

use std::time::{Duration, Instant};

/// A moment after which nobody waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
}

// === impl Deadline ===

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Zero once it has passed.
    pub(crate) fn remaining(self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.start.elapsed()
    }

    /// Whichever comes first.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self::after(limit.min(self.remaining()))
    }
}
