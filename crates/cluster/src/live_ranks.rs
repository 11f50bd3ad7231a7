//! The ranks of a replica that run, or may still run.
//!
//! Ranks outlive the actors that stand for them: a thread ends with its step, a process when it was
//! reaped. [`LiveRanks`] outlives the actors as well, so that every rank is joined however its replica
//! ended (**A14**).
//!
//! - **LR-1** a rank is counted from before its start until [`StartedRank::ended`] has completed.
//! - **LR-2** when [`gone`](LiveRanks::gone) completes, no rank of any epoch runs, and nothing is kept
//!   for the ranks: no process and no device.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use playhouse_layout::RankId;
use playhouse_types::Epoch;
use tokio::sync::watch;

use crate::rank::{RankHandle, RankPort, RankSink, RankStarter, StartedRank};
use crate::tasks::Tasks;

/// Counts the ranks of one replica until they have ended.
#[derive(Debug)]
pub(crate) struct LiveRanks {
    tasks: Tasks,
    counts: watch::Sender<BTreeMap<Epoch, usize>>,
    /// The handle of each rank that was started and not given up.
    handles: Mutex<HashMap<RankId, Arc<dyn RankHandle>>>,
}

/// One rank in the count. Dropping it takes the rank out of the count.
struct Counted {
    ranks: Arc<LiveRanks>,
    epoch: Epoch,
}

// === impl LiveRanks ===

impl LiveRanks {
    /// Creates an empty count. `tasks` wait for the ends of ranks.
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self { tasks, counts: watch::Sender::default(), handles: Mutex::default() }
    }

    /// Starts a rank (**LR-1**).
    ///
    /// # Errors
    /// The error of the starter.
    pub(crate) fn start(
        self: &Arc<Self>,
        starter: &RankStarter,
        epoch: Epoch,
        rank: RankId,
        sink: RankSink,
    ) -> io::Result<(RankPort, Arc<dyn RankHandle>)> {
        self.counts.send_modify(|counts| *counts.entry(epoch).or_default() += 1);
        let counted = Counted { ranks: Arc::clone(self), epoch };
        let StartedRank { port, handle, ended } = starter(epoch, rank, sink)?;
        self.handles().insert(rank, Arc::clone(&handle));
        self.tasks.join(async move {
            ended.await;
            drop(counted);
        });
        Ok((port, handle))
    }

    /// Waits until every rank of an epoch before this one has ended.
    pub(crate) async fn ended_before(&self, epoch: Epoch) {
        self.until(|counts| counts.range(..epoch).next().is_none()).await;
    }

    /// Gives up all ranks, whose ports have been dropped, and waits until they are gone (**LR-2**).
    pub(crate) async fn gone(&self) {
        let mut handles: Vec<_> = self.handles().drain().collect();
        handles.sort_unstable_by_key(|(rank, _)| rank.index);
        handles.iter().for_each(|(_, handle)| handle.vacate());
        self.until(BTreeMap::is_empty).await;
        for (_, handle) in handles {
            handle.vacated().await;
        }
    }

    /// Returns the latest epoch with a rank that was started and has not ended.
    pub(crate) fn last_epoch(&self) -> Option<Epoch> {
        self.counts.borrow().keys().next_back().copied()
    }

    async fn until(&self, over: impl Fn(&BTreeMap<Epoch, usize>) -> bool) {
        // The sender is ours.
        drop(self.counts.subscribe().wait_for(|counts| over(counts)).await);
    }

    fn handles(&self) -> MutexGuard<'_, HashMap<RankId, Arc<dyn RankHandle>>> {
        self.handles.lock()
    }
}

// === impl Counted ===

impl Drop for Counted {
    fn drop(&mut self) {
        self.ranks.counts.send_modify(|counts| {
            if let Some(count) = counts.get_mut(&self.epoch) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(&self.epoch);
                }
            }
        });
    }
}
