//! The port of a rank on its way from a shard to its replica.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::rank::RankPort;

/// The slot in which the port of a rank waits until the replica takes it. A port that is never taken is
/// dropped with the shard and the message, which ends the rank.
#[derive(Clone)]
pub(crate) struct PortSlot(Arc<Mutex<Option<RankPort>>>);

// === impl PortSlot ===

impl PortSlot {
    pub(crate) fn new(port: RankPort) -> Self {
        Self(Arc::new(Mutex::new(Some(port))))
    }

    /// Takes the port, once.
    pub(crate) fn take(&self) -> Option<RankPort> {
        self.0.lock().take()
    }
}
