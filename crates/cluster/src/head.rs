//! The way to the head, for nodes and rank processes.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use playhouse_link::{
    Arrivals, Backoff, BindError, Endpoint, GaveUp, Identity, Inbox, LinkConfig, Peer,
};
use playhouse_types::Epoch;
use playhouse_wire::{PeerId, Role};

/// The name of every head: there is one.
pub const HEAD: &str = "head";

/// The head does not answer, or does not let us in.
#[derive(Debug, thiserror::Error)]
#[error("the head at {head}: {why}")]
pub struct NoHead {
    /// Where it was looked for.
    pub head: SocketAddr,
    /// What came of it.
    pub why: GaveUp,
}

/// A socket from which the head can be dialled.
pub(crate) struct Way {
    pub(crate) endpoint: Endpoint,
    head: SocketAddr,
    /// Nobody dials us.
    _arrivals: Arrivals,
}

// === impl Way ===

impl Way {
    pub(crate) fn new(head: SocketAddr, identity: &Identity) -> Result<Self, BindError> {
        let any: IpAddr = if head.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let (endpoint, _arrivals) =
            Endpoint::bind((any, 0).into(), identity, incarnation(), LinkConfig::default())?;
        Ok(Self { endpoint, head, _arrivals })
    }

    /// Dials the head, again and again for as long as `budget`.
    pub(crate) async fn dial(&self, budget: Duration) -> Result<(Peer, Inbox), NoHead> {
        let to = PeerId::new(Role::Head, HEAD).unwrap_or_else(|_| unreachable!("a good name"));
        let backoff = Backoff { budget, ..Backoff::default() };
        let dialled = self.endpoint.dial_again(self.head, &to, Epoch(0), backoff).await;
        dialled.map_err(|why| NoHead { head: self.head, why })
    }
}

/// Grows with every start of a process, unless the clock is set back between two.
pub(crate) fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
