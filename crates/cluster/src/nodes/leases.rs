//! The leases of all holders: what each start of a holder has.
//!
//! - **LE-1** a lease ends once, and later calls for it do nothing: they never concern a later lease of
//!   the same holder (**A13**).

use std::collections::BTreeMap;

use playhouse_types::ReplicaId;

/// The id of a lease, one for each start of a replica. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(u64);

/// The leases that have not ended, and what each has.
#[derive(Debug)]
pub(crate) struct Leases<T> {
    next: u64,
    held: BTreeMap<LeaseId, (ReplicaId, T)>,
}

// === impl Leases ===

impl<T> Default for Leases<T> {
    fn default() -> Self {
        Self { next: 0, held: BTreeMap::new() }
    }
}

impl<T> Leases<T> {
    /// Begins a lease.
    pub(crate) fn add(&mut self, holder: ReplicaId, what: T) -> LeaseId {
        let id = LeaseId(self.next);
        self.next += 1;
        self.held.insert(id, (holder, what));
        id
    }

    /// Ends a lease.
    pub(crate) fn remove(&mut self, id: LeaseId) {
        self.held.remove(&id);
    }

    /// Changes what a lease has from now on.
    pub(crate) fn set(&mut self, id: LeaseId, what: T) {
        if let Some((_, has)) = self.held.get_mut(&id) {
            *has = what;
        }
    }

    /// Returns the holder of a lease, and what the lease has; `None` once it has ended.
    pub(crate) fn get(&self, id: LeaseId) -> Option<(ReplicaId, &T)> {
        self.held.get(&id).map(|(holder, what)| (*holder, what))
    }

    /// Returns what the leases of a holder have.
    pub(crate) fn of(&self, holder: ReplicaId) -> impl Iterator<Item = &T> {
        self.held.values().filter(move |(other, _)| *other == holder).map(|(_, what)| what)
    }

    /// Returns what all leases have, without that of `id`.
    pub(crate) fn but(&self, id: Option<LeaseId>) -> impl Iterator<Item = &T> {
        self.held.iter().filter(move |(other, _)| Some(**other) != id).map(|(_, (_, what))| what)
    }
}
