//! The pace of each replica's steps, for the other replicas to compare with.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use playhouse_types::ReplicaId;

use crate::watchdog::{Paces, Work};

/// The measured step times of every replica. Each use is short: a lock and a look into small maps.
#[derive(Debug, Default)]
pub(crate) struct PeerPaces(Mutex<BTreeMap<ReplicaId, Paces>>);

// === impl PeerPaces ===

impl PeerPaces {
    /// Records how long a step of a replica took.
    pub(crate) fn measured(&self, replica: ReplicaId, work: Work, took: Duration) {
        self.paces().entry(replica).or_default().measured(work, took);
    }

    /// Returns how long such a step takes in the other replicas: the median, or the greater of the
    /// middle two. `None` if no other replica has measured anything.
    pub(crate) fn expected(&self, than: ReplicaId, work: Work) -> Option<Duration> {
        let paces = self.paces();
        let others = paces.iter().filter(|(id, _)| **id != than);
        let mut times: Vec<f64> = others.filter_map(|(_, own)| own.expected(work)).collect();
        times.sort_unstable_by(f64::total_cmp);
        let middle = times.get(times.len() / 2)?;
        Duration::try_from_secs_f64(*middle).ok()
    }

    /// Forgets what a replica measured, because the replica has left or has new ranks.
    pub(crate) fn forget(&self, replica: ReplicaId) {
        self.paces().remove(&replica);
    }

    fn paces(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Paces>> {
        self.0.lock()
    }
}
