//! What a request may expect of the queue.

use std::time::Duration;

/// Where a request stands in the queue, and how long it may stand there. The default is what everybody
/// had if nobody was special.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Lower is earlier, as vLLM spells it.
    pub priority: i32,
    /// On whose behalf it is asked for. Those of one priority share the replica evenly (**S-14**).
    pub tenant: Tenant,
    /// From this time on nobody waits for it any more: if it has no seat by then, it expires (**S-13**).
    /// On the clock of `now`.
    pub deadline: Option<Duration>,
}

/// Whoever requests are made for, such as the holder of an API key. Their number has to be bounded by
/// the caller: a scheduler remembers each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub u32);
