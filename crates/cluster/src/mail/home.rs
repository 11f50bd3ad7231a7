//! The home of a request: the replica that has the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use playhouse_types::ReplicaId;

/// The replica that has a request, for its caller to read. Clones are of the same request.
#[derive(Clone, Debug)]
pub(crate) struct Home(Arc<HomeState>);

#[derive(Debug)]
struct HomeState {
    /// The replica, or [`PARKED`].
    replica: AtomicU32,
    /// How many tokens there were when the request last left a replica, or [`NEVER`].
    moved_at: AtomicU32,
}

/// No replica has this id.
const PARKED: u32 = u32::MAX;

/// No request has so many tokens.
const NEVER: u32 = u32::MAX;

// === impl Home ===

impl Home {
    /// The home of a request that goes to `replica`, or is parked.
    pub(crate) fn new(replica: Option<ReplicaId>) -> Self {
        Self(Arc::new(HomeState {
            replica: AtomicU32::new(replica.map_or(PARKED, |replica| replica.0)),
            moved_at: AtomicU32::new(NEVER),
        }))
    }

    /// The replica that has the request; `None` while the request is parked.
    pub(crate) fn replica(&self) -> Option<ReplicaId> {
        let replica = self.0.replica.load(Ordering::SeqCst);
        Some(replica).filter(|home| *home != PARKED).map(ReplicaId)
    }

    /// Whether the request had exactly so many tokens when it last left a replica.
    pub(crate) fn moved_at(&self, tokens: u32) -> bool {
        self.0.moved_at.load(Ordering::SeqCst) == tokens
    }

    /// Sends a request with so many tokens to `replica`.
    pub(super) fn move_to(&self, replica: ReplicaId, tokens: usize) {
        self.set(replica.0, tokens);
    }

    /// Parks a request with so many tokens. Returns whether a replica had it.
    pub(super) fn park(&self, tokens: usize) -> bool {
        self.set(PARKED, tokens) != PARKED
    }

    /// Returns where the request was.
    fn set(&self, replica: u32, tokens: usize) -> u32 {
        self.0.moved_at.store(u32::try_from(tokens).unwrap_or(NEVER), Ordering::SeqCst);
        self.0.replica.swap(replica, Ordering::SeqCst)
    }
}
