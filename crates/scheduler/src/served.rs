//! How much of the replica each tenant has had: the virtual token counters of VTC (Sheng et al., OSDI
//! '24). The tenant with the least is served next; who has nothing to ask for saves nothing up.

use std::collections::HashMap;

use crate::Tenant;

/// A generated token costs as much as so many of a prompt, as in VTC.
pub(crate) const GENERATED_COST: usize = 2;

/// Tokens given to each tenant: those of a prompt once, generated ones [`GENERATED_COST`] times.
#[derive(Debug, Default)]
pub(crate) struct Served {
    tokens: HashMap<Tenant, u64>,
    /// What the tenant had that was the last to have nobody in the queue any more.
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

    /// A tenant begins to wait beside those who do. It is not owed what it did not ask for: it begins
    /// with no less than the least of them, or the last to leave.
    pub(crate) fn join(&mut self, tenant: Tenant, waiting: impl Iterator<Item = Tenant>) {
        let least = waiting.map(|other| self.of(other)).min().unwrap_or(self.last);
        let served = self.tokens.entry(tenant).or_default();
        *served = least.max(*served);
    }

    /// A tenant has nobody in the queue any more.
    pub(crate) fn leave(&mut self, tenant: Tenant) {
        self.last = self.of(tenant);
    }
}
