//! Whether something comes of the work of a replica.

use std::time::Duration;

use tokio::time::Instant;

/// When something was last heard of a replica that has work.
///
/// Its process may live and its link answer, and still nothing may come of its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since when it has work and nothing came of it; `None` while it has none.
    pub waits_since: Option<Instant>,
    /// How long that may be.
    pub patience: Patience,
    /// It is an outlier: its steps take so many times what those of its peers do.
    pub slower_than_peers: Option<u32>,
}

/// How long nothing may come of the work of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// Before it hesitates: others get what is new.
    pub quick: Duration,
    /// Before it is stalled.
    pub stalled: Duration,
}

// === impl Progress ===

impl Progress {
    /// How long it has had work and nothing came of it; `None` while it has none.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.waits_since.map(|since| since.elapsed())
    }

    /// Whether that is longer than it should be.
    #[must_use]
    pub fn hesitates(&self) -> bool {
        self.waited().is_some_and(|waited| waited > self.patience.quick)
    }

    /// Whether that is too long.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.waited().is_some_and(|waited| waited > self.patience.stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_without_progress_is_a_stall_after_a_while() {
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(1000));
        let patience = |quick, stalled| Patience { quick, stalled };
        let idle = Progress::default();
        assert_eq!((idle.waited(), idle.hesitates(), idle.is_stalled()), (None, false, false));
        let progress =
            |waits_since, patience| Progress { waits_since, patience, ..Progress::default() };
        let busy = progress(Some(Instant::now()), patience(long, long));
        assert!(busy.waited().is_some() && !busy.hesitates() && !busy.is_stalled());
        let waits_since = Instant::now().checked_sub(2 * short);
        assert!(waits_since.is_some(), "the machine is up");
        let busy = progress(waits_since, patience(short, long));
        assert!(busy.hesitates() && !busy.is_stalled());
        let busy = progress(waits_since, patience(short, short));
        assert!(busy.is_stalled());
    }
}
