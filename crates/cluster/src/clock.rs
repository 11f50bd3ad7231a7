//! The clock of a cluster: all of it tells the same time, because requests move.

use std::time::Duration;

use tokio::time::Instant;

/// Tells the time since it was started, as schedulers count it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

// === impl Clock ===

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// What it tells at `instant`; 0 if that was before it was started.
    pub(crate) fn time_of(self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.0)
    }
}
