//! A rank that is a process, as its replica holds it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::RemoteRanks;
use crate::rank::{Rank, RankHandle};

/// Ends its process, now or for good.
pub(super) struct RemoteHandle {
    ranks: Arc<RemoteRanks>,
    rank: Rank,
    /// Read when the port is dropped.
    hung: Arc<AtomicBool>,
}

// === impl RemoteHandle ===

impl RemoteHandle {
    pub(super) fn new(ranks: Arc<RemoteRanks>, rank: Rank, hung: Arc<AtomicBool>) -> Self {
        Self { ranks, rank, hung }
    }
}

impl RankHandle for RemoteHandle {
    fn abort(&self) {
        self.hung.store(true, Ordering::Relaxed);
    }

    fn vacate(&self) {
        let (ranks, rank) = (Arc::clone(&self.ranks), self.rank);
        self.ranks.runtime.spawn(async move { ranks.vacate(rank).await });
    }
}

impl fmt::Debug for RemoteHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteHandle").field("rank", &self.rank).finish_non_exhaustive()
    }
}
