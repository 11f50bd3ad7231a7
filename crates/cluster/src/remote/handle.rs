//! The handle of a rank that is a process, as its replica holds it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::RemoteRanks;
use playhouse_layout::RankId;

use crate::rank::RankHandle;

/// Ends the rank's process, now or for good.
pub(super) struct RemoteHandle {
    ranks: Arc<RemoteRanks>,
    rank: RankId,
    /// Whether the rank hangs; read when the port is dropped.
    hung: Arc<AtomicBool>,
    /// Whether what was given up is gone.
    vacated: watch::Sender<bool>,
}

// === impl RemoteHandle ===

impl RemoteHandle {
    pub(super) fn new(ranks: Arc<RemoteRanks>, rank: RankId, hung: Arc<AtomicBool>) -> Self {
        Self { ranks, rank, hung, vacated: watch::Sender::new(false) }
    }
}

impl RankHandle for RemoteHandle {
    fn abort(&self) {
        self.hung.store(true, Ordering::Relaxed);
    }

    fn vacate(&self) {
        let (ranks, rank, vacated) = (Arc::clone(&self.ranks), self.rank, self.vacated.clone());
        self.ranks.control.tasks().join_on(&self.ranks.runtime, async move {
            ranks.vacate(rank).await;
            vacated.send_replace(true);
        });
    }

    fn vacated(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut vacated = self.vacated.subscribe();
        // A sender that is gone has nothing more to say.
        Box::pin(async move { drop(vacated.wait_for(|vacated| *vacated).await) })
    }
}

impl fmt::Debug for RemoteHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteHandle").field("rank", &self.rank).finish_non_exhaustive()
    }
}
