//! [`Endpoint`]: where a process listens, and from where it dials.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use playhouse_types::Epoch;
use playhouse_wire::{Hello, PeerId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::arrival::{Arrivals, Knock, TurnReason, receive, turn_away};
use crate::config::LinkConfig;
use crate::connection::{CloseCode, Connection, PeerLost, Transport};
use crate::desk::JoinDesk;
use crate::dial::DialError;
use crate::greeting;
use crate::identity::{Identity, IdentityError, Term, certified_peer};
use crate::inbox::Inbox;
use crate::join;
use crate::peer::Peer;
use crate::porch::{Entry, Porch};
use crate::renewal::{Renewals, renew_own};
use crate::roster::Roster;
use crate::runtime::LinkThread;
use crate::{tls, twin};

/// Arrivals and reports that wait for [`Arrivals::next`].
const KNOCKS_QUEUED_MAX: usize = 64;

/// One socket of one process. Dropping it ends listening; its peers stay. A process that ends calls
/// [`Endpoint::shut_down`] first, or its peers notice by the idle timeout only.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) shared: Arc<Shared>,
    listening: AbortHandle,
}

/// What an endpoint and the connections that come to it have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    id: PeerId,
    incarnation: u64,
    pub(crate) config: LinkConfig,
    pub(crate) roster: Roster,
    carrier: Carrier,
    desk: OnceLock<Arc<JoinDesk>>,
    /// Drives connections.
    handle: Handle,
    thread: Option<Arc<LinkThread>>,
}

#[derive(Debug)]
pub(crate) enum Carrier {
    Quic { endpoint: quinn::Endpoint, shown: Box<Mutex<Shown>> },
    Twin(twin::Host),
}

/// The certificate that new connections show, and how they dial with it.
#[derive(Debug)]
pub(crate) struct Shown {
    identity: Identity,
    client: quinn::ClientConfig,
    /// Whether connections are accepted.
    listens: bool,
}

/// Why an endpoint was not made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address cannot be listened on, or no thread was to be had.
    #[error("cannot listen on {addr}/udp: {source}")]
    Io {
        /// As given.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

// === impl Endpoint ===

impl Endpoint {
    /// Listens on `addr` as `identity`. `incarnation` must be another one
    /// for every start of the process.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(
        addr: SocketAddr,
        identity: &Identity,
        incarnation: u64,
        config: LinkConfig,
    ) -> Result<(Self, Arrivals), BindError> {
        let server = tls::server(identity, &config)?;
        let client = tls::client(identity, &config)?;
        let io = |source| BindError::Io { addr, source };
        let thread = Arc::new(LinkThread::start().map_err(io)?);
        let handle = thread.handle().clone();
        let _entered = handle.enter();
        let endpoint = quinn::Endpoint::server(server, addr).map_err(io)?;
        let shown = Shown { identity: identity.clone(), client, listens: true };
        let shared = Shared {
            id: identity.peer().clone(),
            incarnation,
            config,
            roster: Roster::default(),
            carrier: Carrier::Quic {
                endpoint: endpoint.clone(),
                shown: Box::new(Mutex::new(shown)),
            },
            desk: OnceLock::new(),
            handle: handle.clone(),
            thread: Some(thread),
        };
        let (knocks, queue) = mpsc::channel(KNOCKS_QUEUED_MAX);
        let shared = Arc::new(shared);
        let listening = handle.spawn(listen(Arc::clone(&shared), endpoint, knocks)).abort_handle();
        Ok((Self { shared, listening }, Arrivals { queue }))
    }

    /// The same, in memory.
    pub(crate) fn twin(
        id: &PeerId,
        incarnation: u64,
        config: LinkConfig,
        host: twin::Host,
        mut connections: mpsc::Receiver<twin::End>,
    ) -> (Self, Arrivals) {
        let shared = Arc::new(Shared {
            id: id.clone(),
            incarnation,
            config,
            roster: Roster::default(),
            carrier: Carrier::Twin(host),
            desk: OnceLock::new(),
            handle: Handle::current(),
            thread: None,
        });
        let (knocks, queue) = mpsc::channel(KNOCKS_QUEUED_MAX);
        let listener = Arc::clone(&shared);
        let listening = tokio::spawn(async move {
            let mut greetings = JoinSet::new();
            while let Some(end) = connections.recv().await {
                while greetings.try_join_next().is_some() {}
                let (peer, from) = end.other();
                let connection = Connection::new(Transport::Twin(end));
                let shared = Arc::clone(&listener);
                greetings.spawn(receive(shared, connection, peer, None, from, knocks.clone()));
            }
        });
        (Self { shared, listening: listening.abort_handle() }, Arrivals { queue })
    }

    /// Lets nodes in that bring a token of this desk, and renews certificates: those of connected peers,
    /// when they ask, and our own in time. The first desk stays.
    pub fn admit_nodes(&self, desk: Arc<JoinDesk>) {
        if self.shared.desk.set(Arc::clone(&desk)).is_ok() {
            self.shared.handle.spawn(renew_own(Arc::downgrade(&self.shared), desk));
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.shared.carrier {
            Carrier::Quic { endpoint, .. } => endpoint.local_addr(),
            Carrier::Twin(host) => Ok(host.addr()),
        }
    }

    /// Connects to the peer `to` at `addr`, once. Our hello says `epoch`.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        addr: SocketAddr,
        to: &PeerId,
        epoch: Epoch,
    ) -> Result<(Peer, Inbox), DialError> {
        let after = self.shared.config.handshake;
        let dialled = timeout(after, self.shared.dial(addr, to, epoch)).await;
        dialled.unwrap_or(Err(DialError::NoAnswer { addr, after }))
    }

    /// The runtime that drives this endpoint's connections. A task here is woken by the network
    /// without another thread in between, which halves the time of a call; but while it runs, no
    /// keep-alive is sent. For tasks that pass messages on and never block or compute (**LK-4**).
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.shared.handle
    }

    /// Ends every connection of this endpoint and says why, then waits until the peers can know.
    pub async fn shut_down(&self, reason: &str) {
        self.listening.abort();
        match &self.shared.carrier {
            Carrier::Quic { endpoint, .. } => {
                endpoint.close(CloseCode::Bye.number().into(), reason.as_bytes());
                drop(timeout(self.shared.config.idle, endpoint.wait_idle()).await);
            }
            Carrier::Twin(host) => host.close_all(reason),
        }
    }

    /// The end of the certificate that this endpoint shows; the twin shows none.
    #[must_use]
    pub fn good_until(&self) -> Option<SystemTime> {
        self.shared.identity().map(|identity| identity.good_until())
    }

    /// Which start of the process this is.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.listening.abort();
        if let Carrier::Quic { endpoint, shown } = &self.shared.carrier {
            lock(shown).listens = false;
            endpoint.set_server_config(None);
        }
    }
}

// === impl Shared ===

impl Shared {
    /// What lets nodes in and renews certificates, if this process does.
    pub(crate) fn desk(&self) -> Option<&Arc<JoinDesk>> {
        self.desk.get()
    }

    /// What new connections show; the twin has nothing.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match &self.carrier {
            Carrier::Quic { shown, .. } => Some(lock(shown).identity.clone()),
            Carrier::Twin(_) => None,
        }
    }

    /// Shows this certificate on new connections from now on; those that stand go on.
    pub(crate) fn show(&self, identity: &Identity) -> Result<(), IdentityError> {
        let Carrier::Quic { endpoint, shown } = &self.carrier else { return Ok(()) };
        let server = tls::server(identity, &self.config)?;
        let client = tls::client(identity, &self.config)?;
        let mut shown = lock(shown);
        (shown.identity, shown.client) = (identity.clone(), client);
        if shown.listens {
            endpoint.set_server_config(Some(server));
        }
        Ok(())
    }

    /// What this process says of itself.
    pub(crate) fn hello(&self, epoch: Epoch) -> Hello {
        let (role, name) = (self.id.role(), self.id.name().to_owned());
        Hello { role, name, incarnation: self.incarnation, epoch }
    }

    /// Starts serving a connection whose greeting is done, or as good as done.
    pub(crate) fn start(
        self: &Arc<Self>,
        id: &PeerId,
        hello: &Hello,
        connection: &Connection,
        renewals: Option<Renewals>,
    ) -> (Peer, Inbox) {
        let _entered = self.handle.enter();
        let (lost, is_lost) = watch::channel(None);
        let (shared, watched, peer) = (Arc::clone(self), connection.clone(), id.clone());
        tokio::spawn(async move {
            let why = watched.closed().await;
            shared.roster.leave(&peer, &watched);
            tracing::info!(%peer, %why, "peer lost");
            lost.send_replace(Some(why));
        });
        let inbox = Inbox::start(connection, self.config.handshake, renewals);
        let thread = self.thread.clone();
        (Peer::start(id.clone(), hello.clone(), connection.clone(), is_lost, thread), inbox)
    }

    async fn dial(
        self: &Arc<Self>,
        addr: SocketAddr,
        to: &PeerId,
        epoch: Epoch,
    ) -> Result<(Peer, Inbox), DialError> {
        let connection = self.connect(addr, to).await?;
        match greeting::say_hello(&connection, &self.hello(epoch), to).await {
            Ok(hello) => Ok(self.start(to, &hello, &connection, None)),
            Err(reason) => {
                let ids = [&self.id, to];
                let error = DialError::from_greeting(reason, addr, ids, self.config.idle);
                connection.close(CloseCode::Bye, PeerLost::Local, "greeting failed");
                Err(error)
            }
        }
    }

    async fn connect(&self, addr: SocketAddr, to: &PeerId) -> Result<Connection, DialError> {
        let failed = |lost| DialError::from_lost(lost, addr, &self.id, self.config.idle);
        let transport = match &self.carrier {
            Carrier::Quic { endpoint, shown } => {
                let client = lock(shown).client.clone();
                let connecting = {
                    let _entered = self.handle.enter();
                    endpoint.connect_with(client, addr, &to.host_name())
                };
                let address =
                    |why: quinn::ConnectError| DialError::Address { addr, why: why.to_string() };
                let connected = connecting.map_err(address)?.await;
                let lost = |error| failed(crate::quic::peer_lost(&error));
                Transport::Quic(connected.map_err(lost)?)
            }
            Carrier::Twin(host) => Transport::Twin(host.connect(addr, to).await.map_err(failed)?),
        };
        Ok(Connection::new(transport))
    }
}

/// Greets whoever comes, a bounded number at a time.
async fn listen(shared: Arc<Shared>, endpoint: quinn::Endpoint, knocks: mpsc::Sender<Knock>) {
    let (mut greetings, porch) = (JoinSet::new(), Porch::default());
    while let Some(incoming) = endpoint.accept().await {
        while greetings.try_join_next().is_some() {}
        let from = incoming.remote_address();
        let place = match porch.enter(from.ip(), incoming.remote_address_validated()) {
            Entry::Greet(place) => place,
            Entry::Prove => {
                // It fails only for who has proved its address.
                drop(incoming.retry());
                continue;
            }
            Entry::Refuse => {
                incoming.refuse();
                continue;
            }
        };
        let (shared, knocks) = (Arc::clone(&shared), knocks.clone());
        greetings.spawn(async move {
            let _place = place;
            let patience = shared.config.handshake;
            let connected = match timeout(patience, incoming).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    return turn_away(from, crate::quic::turned_away(&error), &knocks);
                }
                Err(_) => return turn_away(from, TurnReason::Silent, &knocks),
            };
            greet(shared, connected, from, knocks).await;
        });
    }
}

/// Sorts peers from joiners, and both from the rest.
async fn greet(
    shared: Arc<Shared>,
    connected: quinn::Connection,
    from: SocketAddr,
    knocks: mpsc::Sender<Knock>,
) {
    let handshake = connected.handshake_data();
    let handshake = handshake.and_then(|data| data.downcast().ok());
    let protocol =
        handshake.and_then(|data: Box<quinn::crypto::rustls::HandshakeData>| data.protocol);
    if protocol.as_deref() == Some(tls::JOIN_PROTOCOL) {
        let taken = |peer: &PeerId| shared.roster.has(peer);
        let joined = join::serve(connected, shared.desk.get(), taken, &shared.config).await;
        if let Err(reason) = joined {
            turn_away(from, reason, &knocks);
        }
        return;
    }
    let chain = connected.peer_identity().and_then(|chain| chain.downcast().ok());
    let chain = chain.map(|chain: Box<Vec<rustls::pki_types::CertificateDer<'static>>>| *chain);
    let shown = chain.as_deref().and_then(<[_]>::first);
    let certified = shown.map(certified_peer);
    let term = shown.and_then(Term::of);
    let connection = Connection::new(Transport::Quic(connected));
    let reason = match certified {
        Some(Some(peer)) => return receive(shared, connection, peer, term, from, knocks).await,
        Some(None) => TurnReason::Nameless,
        None => TurnReason::NoCertificate,
    };
    connection.close(CloseCode::Protocol, PeerLost::Local, &reason.to_string());
    turn_away(from, reason, &knocks);
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
