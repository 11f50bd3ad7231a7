//! The progress of a replica: whether its work has results.

use std::time::Duration;

use tokio::time::Instant;

/// The progress of a replica that has work, by when it was last heard of.
///
/// A replica's process may live and its link answer while its work has no results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since when the replica has had work without a result; `None` while it has no work.
    pub waits_since: Option<Instant>,
    /// How long that may last.
    pub patience: Patience,
    /// How many times slower than its peers the replica's steps are, if it is an outlier.
    pub slower_than_peers: Option<u32>,
}

/// How long a replica with work may be without a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// How long before the replica hesitates: new requests go to others.
    pub quick: Duration,
    /// How long before the replica is stalled.
    pub stalled: Duration,
}

// === impl Progress ===

impl Progress {
    /// Returns how long the replica has had work without a result; `None` while it has no work.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.waits_since.map(|since| since.elapsed())
    }

    /// Returns whether the replica has waited longer than it should.
    #[must_use]
    pub fn hesitates(&self) -> bool {
        self.waited().is_some_and(|waited| waited > self.patience.quick)
    }

    /// Returns whether the replica has waited too long.
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
