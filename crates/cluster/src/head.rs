//! Where the head is: how it listens, and the way to it for nodes and rank processes.

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

/// The name of every head: there is one.
pub const HEAD: &str = "head";

/// The head does not answer, or does not let us in.
#[derive(Debug, thiserror::Error)]
#[error("the head at {head}: {why}")]
pub struct NoHead {
    /// Where it was looked for.
    pub head: HeadAddress,
    /// What came of it.
    pub why: GaveUp,
}

/// The head does not listen.
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

/// Where the head listens.
pub struct Listener {
    pub(crate) endpoint: Endpoint,
    pub(crate) arrivals: Arrivals,
    /// Under which processes of this machine find it.
    pub(crate) address: SocketAddr,
}

/// Where the head is, as `HOST:PORT`. A host is looked up at every dial, because a head that was started
/// anew may have another address.
#[derive(Clone)]
pub struct HeadAddress {
    text: String,
    look_up: LookUp,
}

/// Finds all addresses of a `HOST:PORT`.
pub type LookUp = Arc<dyn Fn(&str) -> Found + Send + Sync>;

/// Ends with the addresses of a host.
pub type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// A socket from which the head can be dialled.
pub struct Way {
    pub(crate) endpoint: Endpoint,
    pub(crate) head: HeadAddress,
    /// Nobody dials us.
    _arrivals: Arrivals,
}

// === impl Listener ===

impl Listener {
    /// A socket at `address`, of the head of this authority.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(address: SocketAddr, authority: &Authority) -> Result<Self, ListenError> {
        let id = PeerId::new(Role::Head, HEAD).map_err(io::Error::other)?;
        let identity = authority.identify(&id)?;
        let bound = Endpoint::bind(address, &identity, incarnation(), LinkConfig::default())?;
        Ok(Self::over(bound)?)
    }

    /// What was made for the head already.
    ///
    /// # Errors
    /// When the system does not say where that is.
    pub fn over((endpoint, arrivals): (Endpoint, Arrivals)) -> io::Result<Self> {
        let address = reachable(endpoint.local_addr()?);
        Ok(Self { endpoint, arrivals, address })
    }
}

/// The address under which processes of this machine find a socket.
fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip().is_unspecified() {
        false => bound,
        true if bound.is_ipv4() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bound.port()),
        true => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound.port()),
    }
}

// === impl HeadAddress ===

impl HeadAddress {
    /// Looked up as the system looks hosts up.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self::found_by(text, Arc::new(system_look_up))
    }

    /// Looked up in another way.
    #[must_use]
    pub fn found_by(text: &str, look_up: LookUp) -> Self {
        Self { text: text.to_owned(), look_up }
    }

    /// The first address that it has now.
    ///
    /// # Errors
    /// When it has none, or the text is no host and port ([`io::ErrorKind::InvalidInput`]).
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
    /// A new socket from which to dial the head, which was [found](HeadAddress::find) at `found` first.
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

    /// From an endpoint that is there already.
    #[must_use]
    pub fn over((endpoint, _arrivals): (Endpoint, Arrivals), head: HeadAddress) -> Self {
        Self { endpoint, head, _arrivals }
    }

    /// Dials the head, again and again for as long as `budget`. Our hello says `epoch`.
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

/// Grows with every start of a process, unless the clock is set back between two.
fn incarnation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
