//! [`Terms`]: the terms on which a request waits in the queue.

use std::time::Duration;

/// The position of a request in the queue, and how long the request may wait there. The default is the
/// same for all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The priority. Lower is earlier, as in vLLM.
    pub priority: i32,
    /// The tenant on whose behalf the request is made. Tenants of one priority share the replica evenly
    /// (**S-14**).
    pub tenant: Tenant,
    /// The time at which the request expires if it has no slot by then (**S-13**). On the clock of
    /// `now`.
    pub deadline: Option<Duration>,
}

/// A tenant: the party for which requests are made, such as the holder of an API key. The number of
/// tenants has to be bounded by the caller, because a scheduler remembers each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub u32);
