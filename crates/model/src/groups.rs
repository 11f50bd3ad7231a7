//! The ranks that a model computes with.

use std::collections::BTreeMap;

use playhouse_collectives::Communicator;
use playhouse_layout::GroupKind;

/// The groups of a rank, by what they are for. A kind that is not split has the rank alone.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<GroupKind, Communicator>);

// === impl Groups ===

impl Groups {
    /// The only rank.
    #[must_use]
    pub fn solo() -> Self {
        Self::default()
    }

    /// The group of a kind.
    #[must_use]
    pub fn get(&self, kind: GroupKind) -> Communicator {
        self.0.get(&kind).cloned().unwrap_or_else(Communicator::solo)
    }
}

impl FromIterator<(GroupKind, Communicator)> for Groups {
    fn from_iter<T: IntoIterator<Item = (GroupKind, Communicator)>>(groups: T) -> Self {
        Self(groups.into_iter().collect())
    }
}
