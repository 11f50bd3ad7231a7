//! The name of a rank.

use playhouse_types::ReplicaId;

/// The name of one rank of a cluster: its replica, and its [`Coordinates::rank`](crate::Coordinates::rank) in
/// the map of that replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankId {
    /// Replica of the rank.
    pub replica: ReplicaId,
    /// Index of the rank in its replica, stage by stage.
    pub index: u32,
}

// === impl RankId ===

impl RankId {
    /// Returns the index as a `usize`, for lists of the ranks of a replica.
    #[must_use]
    pub fn at(self) -> usize {
        self.index as usize
    }
}
