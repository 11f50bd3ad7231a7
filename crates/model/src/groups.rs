//! The groups of ranks with which a model computes.

use std::collections::BTreeMap;

use playhouse_collectives::Communicator;
use playhouse_layout::GroupKind;

/// The groups of a rank by their kind. A kind that is not split has a group of this rank alone.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<GroupKind, Communicator>);

// === impl Groups ===

impl Groups {
    /// Returns the groups of a single rank.
    #[must_use]
    pub fn solo() -> Self {
        Self::default()
    }

    /// Returns the group of `kind`.
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
