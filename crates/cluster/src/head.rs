//! The address of the head: how the head listens, and how nodes and rank processes reach it.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use playhouse_link::{
    Arrivals, Authority, Backoff, BindError, Endpoint, GaveUp, Identity, IdentityError, Inbox,
    LinkConfig, Peer,
};
use playhouse_types::Epoch;
use playhouse_wire::{PeerId, Role};

/// The name of every head. A cluster has one head.
pub const HEAD: &str = "head";

/// The head does not answer, or refuses this process.
#[derive(Debug, thiserror::Error)]
#[error("the head at {head}: {why}")]
pub struct NoHead {
    /// The address at which the head was expected.
    pub head: HeadAddress,
    /// The reason why the last attempt failed.
    pub why: GaveUp,
}

/// The reason why the head does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The head has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The head cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system does not say where the head listens.
    #[error("cannot listen for shards: {0}")]
    Io(#[from] io::Error),
}

/// The socket on which the head listens.
pub struct Listener {
    pub(crate) endpoint: Endpoint,
    pub(crate) arrivals: Arrivals,
    /// The address under which processes of this machine find the head.
    pub(crate) address: SocketAddr,
}

/// The address of the head, as `HOST:PORT`. The host is looked up at every dial, because a head that was
/// started anew may have another address.
#[derive(Clone)]
pub struct HeadAddress {
    text: String,
    look_up: LookUp,
}

/// Finds all addresses of a `HOST:PORT`.
pub type LookUp = Arc<dyn Fn(&str) -> Found + Send + Sync>;

/// Resolves to the addresses of a host.
pub type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// A socket from which the head can be dialled, with the head's address.
pub struct Way {
    pub(crate) endpoint: Endpoint,
    pub(crate) head: HeadAddress,
    /// Kept open, though no peer dials this socket.
    _arrivals: Arrivals,
}

// === impl Listener ===

impl Listener {
    /// Binds a socket at `address`, for the head of this authority.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(address: SocketAddr, authority: &Authority) -> Result<Self, ListenError> {
        let id = PeerId::new(Role::Head, HEAD).map_err(io::Error::other)?;
        let identity = authority.identify(&id)?;
        let bound = Endpoint::bind(address, &identity, incarnation(), LinkConfig::default())?;
        Ok(Self::over(bound)?)
    }

    /// Wraps an endpoint that was made for the head already.
    ///
    /// # Errors
    /// When the system does not say which address the endpoint has.
    pub fn over((endpoint, arrivals): (Endpoint, Arrivals)) -> io::Result<Self> {
        let address = reachable(endpoint.local_addr()?);
        Ok(Self { endpoint, arrivals, address })
    }
}

/// Returns the address under which processes of this machine find a socket.
fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip().is_unspecified() {
        false => bound,
        true if bound.is_ipv4() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bound.port()),
        true => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound.port()),
    }
}

// === impl HeadAddress ===

impl HeadAddress {
    /// Returns an address whose host is looked up as the system looks hosts up.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::found_by(text, Arc::new(system_look_up))
    }

    /// Returns an address whose host is looked up by `look_up`.
    #[must_use]
    pub fn found_by(text: &str, look_up: LookUp) -> Self {
        Self { text: text.to_owned(), look_up }
    }

    /// Looks the host up and returns its first address.
    ///
    /// # Errors
    /// When the host has no address, or the text is no host and port ([`io::ErrorKind::InvalidInput`]).
    pub async fn find(&self) -> io::Result<SocketAddr> {
        self.first(|_| true).await
    }

    async fn first(&self, fits: impl Fn(&SocketAddr) -> bool) -> io::Result<SocketAddr> {
        let found = (self.look_up)(&self.text).await;
        let found = found.map_err(|why| io::Error::new(why.kind(), format!("{self}: {why}")))?;
        let first = found.iter().copied().find(fits);
        first.ok_or_else(|| io::Error::other(format!("{self}: no address that fits in {found:?}")))
    }
}

impl From<SocketAddr> for HeadAddress {
    fn from(address: SocketAddr) -> Self {
        let found = move |_: &str| -> Found { Box::pin(ready(Ok(vec![address]))) };
        Self::found_by(&address.to_string(), Arc::new(found))
    }
}

impl fmt::Display for HeadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for HeadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeadAddress").field(&self.text).finish()
    }
}

fn system_look_up(text: &str) -> Found {
    let text = text.to_owned();
    Box::pin(async move { Ok(tokio::net::lookup_host(text).await?.collect()) })
}

// === impl Way ===

impl Way {
    /// Opens a new socket from which to dial the head, which was [found](HeadAddress::find) at `found`
    /// first.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn new(
        head: HeadAddress,
        found: SocketAddr,
        identity: &Identity,
    ) -> Result<Self, BindError> {
        let any: IpAddr = if found.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let bound =
            Endpoint::bind((any, 0).into(), identity, incarnation(), LinkConfig::default())?;
        Ok(Self::over(bound, head))
    }

    /// Wraps an endpoint that is there already.
    #[must_use]
    pub fn over((endpoint, _arrivals): (Endpoint, Arrivals), head: HeadAddress) -> Self {
        Self { endpoint, head, _arrivals }
    }

    /// Dials the head, again and again for as long as `budget`. The hello of this process says `epoch`.
    pub(crate) async fn dial(
        &self,
        budget: Duration,
        epoch: Epoch,
    ) -> Result<(Peer, Inbox), NoHead> {
        let to = PeerId::new(Role::Head, HEAD).unwrap_or_else(|_| unreachable!("a good name"));
        let backoff = Backoff { budget, ..Backoff::default() };
        // The socket is of one kind.
        let ipv4 = self.endpoint.local_addr().map_or(true, |own| own.is_ipv4());
        let find = || self.head.first(|found| found.is_ipv4() == ipv4);
        let dialled = self.endpoint.dial_again(find, &to, epoch, backoff).await;
        dialled.map_err(|why| NoHead { head: self.head.clone(), why })
    }
}

/// Returns a number that grows with every start of a process, unless the clock is set back between two.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
