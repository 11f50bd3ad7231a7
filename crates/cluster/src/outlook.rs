//! The outlook of a cluster on its start: weights that are read before there is a replica, ranks of an
//! earlier head, and devices that have to come.

use crate::awaited::{Awaited, WeightsProgress};
use crate::control::ControlPlane;
use crate::status::ReplicaStatus;

/// The parts of a cluster that know what its replicas wait for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlook {
    /// The control plane, if ranks are processes.
    pub(crate) control: Option<ControlPlane>,
    /// The weights of ranks that are threads.
    pub(crate) weights: WeightsProgress,
}

// === impl Outlook ===

impl Outlook {
    /// Returns what replicas with these statuses wait for.
    pub(crate) fn awaited(&self, replicas: &[ReplicaStatus]) -> Awaited {
        if self.control.as_ref().is_some_and(ControlPlane::looks_back) {
            return Awaited::EarlierRanks;
        }
        let read = self.weights.get();
        if replicas.is_empty() && read.total > 0 {
            return Awaited::Weights(read);
        }
        let missing = self.control.as_ref().and_then(|control| control.nodes().missing());
        Awaited::of(replicas, missing)
    }
}
