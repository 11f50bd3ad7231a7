//! Who has what, and in which of their starts.
//!
//! - **LE-1** a lease ends once, and what is done about it later does nothing: it never concerns a later
//!   lease of the same holder (**A13**).

use std::collections::BTreeMap;

use playhouse_types::ReplicaId;

/// One start of a replica. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(u64);

/// The leases there are, and what each has.
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

    /// A lease has something else from now on.
    pub(crate) fn set(&mut self, id: LeaseId, what: T) {
        if let Some((_, has)) = self.held.get_mut(&id) {
            *has = what;
        }
    }

    /// Who holds a lease, and what it has; `None` once it has ended.
    pub(crate) fn get(&self, id: LeaseId) -> Option<(ReplicaId, &T)> {
        self.held.get(&id).map(|(holder, what)| (*holder, what))
    }

    /// What the leases of a holder have.
    pub(crate) fn of(&self, holder: ReplicaId) -> impl Iterator<Item = &T> {
        self.held.values().filter(move |(other, _)| *other == holder).map(|(_, what)| what)
    }

    /// What all leases but one have.
    pub(crate) fn but(&self, id: Option<LeaseId>) -> impl Iterator<Item = &T> {
        self.held.iter().filter(move |(other, _)| Some(**other) != id).map(|(_, (_, what))| what)
    }
}
