//! Leases: what is held of nodes, and given back by dropping the lease.

use playhouse_layout::RankMap;
use tracing::info;

use super::leases::LeaseId;
use super::{Assignment, Nodes, SharedNodes};
use crate::memory::MemoryNeeds;

/// The devices of one start of a replica. Dropping it frees them (**ND-3**).
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) nodes: Nodes,
    pub(super) id: LeaseId,
}

/// A process that a node is being told to start.
pub(crate) struct Starting {
    pub(super) nodes: Nodes,
    pub(super) node: String,
}

// === impl Lease ===

impl Lease {
    /// Assigns devices to the ranks of the replica: devices that no other lease has and that are as
    /// large as the rank `needs` (**MM-1**), and the same ones as before as far as that is still
    /// possible. Waits for devices, and for nodes that may be gone, and calls `waits` with each new reason:
    /// how many devices there are, and how many are needed.
    pub(crate) async fn place(
        &self,
        map: &RankMap,
        needs: &MemoryNeeds,
        waits: impl Fn(&str),
    ) -> Vec<Assignment> {
        let SharedNodes { changed, .. } = &*self.nodes.shared;
        let mut changes = changed.subscribe();
        let mut why = String::new();
        loop {
            let placed = self.nodes.inventory().place(self.id, map, needs);
            match placed {
                Ok(assignments) => {
                    changed.send_replace(());
                    return assignments;
                }
                Err(error) if error != why => {
                    info!("waiting for devices: {error}");
                    waits(&error);
                    why = error;
                }
                Err(_) => {}
            }
            // The sender is ours.
            drop(changes.changed().await);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.nodes.inventory().end_lease(self.id);
        self.nodes.shared.changed.send_replace(());
    }
}

// === impl Starting ===

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(entry) = self.nodes.inventory().nodes.get_mut(&self.node) {
            entry.starting = entry.starting.saturating_sub(1);
        }
    }
}
