//! The service that each tenant has had: the virtual token counters of VTC (Sheng et al., OSDI '24). The
//! tenant with the least is served next; a tenant that asks for nothing saves nothing up.

use std::collections::HashMap;

use crate::Tenant;

/// The cost of a generated token, in tokens of a prompt, as in VTC.
pub(crate) const GENERATED_COST: usize = 2;

/// The tokens given to each tenant: those of a prompt once, generated ones [`GENERATED_COST`] times.
#[derive(Debug, Default)]
pub(crate) struct Served {
    tokens: HashMap<Tenant, u64>,
    /// The count of the last tenant whose requests have all left the queue.
    last: u64,
}

// === impl Served ===

impl Served {
    pub(crate) fn of(&self, tenant: Tenant) -> u64 {
        self.tokens.get(&tenant).copied().unwrap_or(0)
    }

    pub(crate) fn charge(&mut self, tenant: Tenant, tokens: usize) {
        *self.tokens.entry(tenant).or_default() += tokens as u64;
    }

    /// Adds a tenant to those that wait. A tenant is not owed what it did not ask for: its count begins
    /// at no less than the smallest count of those that wait, or that of the last tenant to leave.
    pub(crate) fn join(&mut self, tenant: Tenant, waiting: impl Iterator<Item = Tenant>) {
        let least = waiting.map(|other| self.of(other)).min().unwrap_or(self.last);
        let served = self.tokens.entry(tenant).or_default();
        *served = least.max(*served);
    }

    /// Removes a tenant that has no request in the queue any more.
    pub(crate) fn leave(&mut self, tenant: Tenant) {
        self.last = self.of(tenant);
    }
}
