//! The name of a rank.

use playhouse_types::ReplicaId;

/// One rank of a cluster: what [`Coordinates::rank`](crate::Coordinates::rank) is in the map of its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankId {
    /// Its replica.
    pub replica: ReplicaId,
    /// Its place in the replica, stage by stage.
    pub index: u32,
}

// === impl RankId ===

impl RankId {
    /// The index as one into a list of the ranks of a replica.
    #[must_use]
    pub fn at(self) -> usize {
        self.index as usize
    }
}
