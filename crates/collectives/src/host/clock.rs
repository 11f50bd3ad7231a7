//! Deadlines of operations and joins.
#![expect(clippy::disallowed_types, reason = "ranks are threads without a runtime")]

use std::time::{Duration, Instant};

/// A moment after which no thread waits any more.
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

    /// Returns the time until the deadline; zero once it has passed.
    pub(crate) fn remaining(self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the earlier of this deadline and `limit` from now.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self::after(limit.min(self.remaining()))
    }
}
