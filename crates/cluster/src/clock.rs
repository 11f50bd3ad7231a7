//! The clock of a cluster, the same for all replicas because requests move between them.

use std::time::Duration;

use tokio::time::Instant;

/// The time since the cluster's clock was started, as schedulers count it.
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

    /// Returns the clock's time at `instant`; 0 if that was before the clock was started.
    pub(crate) fn time_of(self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.0)
    }
}
