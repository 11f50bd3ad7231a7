//! [`Endpoint`]: the socket on which a process listens and from which it dials.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use playhouse_types::Epoch;
use playhouse_wire::PeerId;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::arrival::{Arrivals, Knock, receive, turn_away};
use crate::close::{CloseCode, PeerLost};
use crate::config::LinkConfig;
use crate::connection::{Connection, Transport};
use crate::dial::DialError;
use crate::endpoint_state::{Carrier, EndpointState, Shown};
use crate::enrollment::Enrollment;
use crate::handshakes::{Handshakes, Verdict};
use crate::identity::{Identity, IdentityError, Term, certified_peer};
use crate::inbox::Inbox;
use crate::join;
use crate::peer::Peer;
use crate::renewal::{KeepIdentity, renew_over, renew_own};
use crate::roster::Roster;
use crate::runtime::LinkThread;
use crate::turn_reason::TurnReason;
use crate::{tls, twin};

/// The maximum number of arrivals and reports that wait for [`Arrivals::next`].
const KNOCKS_QUEUED_MAX: usize = 64;

/// The one socket of one process. Dropping an `Endpoint` ends listening; its peers stay connected. A
/// process that ends calls [`Endpoint::shut_down`] first, or its peers detect the end by the idle timeout
/// only.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) shared: Arc<EndpointState>,
    listening: AbortHandle,
}

/// The reason why an endpoint was not made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address cannot be listened on, or the system gave no thread.
    #[error("cannot listen on {addr}/udp: {source}")]
    Io {
        /// The given address.
        addr: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
}

// === impl Endpoint ===

impl Endpoint {
    /// Returns an endpoint that listens on `addr` as `identity`. `incarnation` must be different for
    /// every start of the process.
    ///
    /// # Errors
    /// Returns a [`BindError`].
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
        let shared = EndpointState {
            id: identity.peer().clone(),
            incarnation,
            config,
            roster: Roster::default(),
            carrier: Carrier::Quic {
                endpoint: endpoint.clone(),
                shown: Box::new(Mutex::new(shown)),
            },
            enrollment: OnceLock::new(),
            handle: handle.clone(),
            thread: Some(thread),
        };
        let (knocks, queue) = mpsc::channel(KNOCKS_QUEUED_MAX);
        let shared = Arc::new(shared);
        let listening = handle.spawn(listen(Arc::clone(&shared), endpoint, knocks)).abort_handle();
        Ok((Self { shared, listening }, Arrivals { queue }))
    }

    /// Returns an endpoint in memory, for [`Network::endpoint`](twin::Network::endpoint).
    fn twin(
        id: &PeerId,
        incarnation: u64,
        config: LinkConfig,
        host: twin::Host,
        mut connections: mpsc::Receiver<twin::End>,
    ) -> (Self, Arrivals) {
        let shared = Arc::new(EndpointState {
            id: id.clone(),
            incarnation,
            config,
            roster: Roster::default(),
            carrier: Carrier::Twin(host),
            enrollment: OnceLock::new(),
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

    /// Admits nodes that bring a token of this enrollment, and renews certificates: those of connected
    /// peers on request, and our own in time. A second call has no effect.
    pub fn admit_nodes(&self, enrollment: Arc<Enrollment>) {
        if self.shared.enrollment.set(Arc::clone(&enrollment)).is_ok() {
            self.shared.handle.spawn(renew_own(Arc::downgrade(&self.shared), enrollment));
        }
    }

    /// Returns the address that the endpoint listens on.
    ///
    /// # Errors
    /// Returns the error of the system, if it does not tell the address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.shared.carrier {
            Carrier::Quic { endpoint, .. } => endpoint.local_addr(),
            Carrier::Twin(host) => Ok(host.addr()),
        }
    }

    /// Connects to the peer `to` at `addr`, once. Our hello has `epoch`.
    ///
    /// # Errors
    /// Returns a [`DialError`].
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

    /// Renews the certificate of this endpoint over a connection to the head, whenever the renewal is
    /// due, and calls `keep` with each new identity. The renewal runs until the future is dropped. New
    /// connections show the new certificate; existing connections are not affected. A failed renewal is
    /// repeated, sooner when less time is left.
    pub async fn renew_over(&self, head: &Peer, keep: KeepIdentity) -> Infallible {
        renew_over(&self.shared, head, keep).await
    }

    /// Returns the runtime that drives this endpoint's connections. The network wakes a task on this
    /// runtime without another thread in between, which halves the time of a call; but while the task
    /// runs, no keep-alive is sent. For tasks that pass messages on and never block or compute
    /// (**LK-4**).
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.shared.handle
    }

    /// Ends every connection of this endpoint with `reason`, then waits until the peers can have received
    /// it.
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

    /// Returns the end of the certificate that this endpoint shows; the twin shows none.
    #[must_use]
    pub fn good_until(&self) -> Option<SystemTime> {
        self.shared.identity().map(|identity| identity.good_until())
    }

    /// Returns the incarnation: the number of this start of the process.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.listening.abort();
        if let Carrier::Quic { endpoint, shown } = &self.shared.carrier {
            shown.lock().listens = false;
            endpoint.set_server_config(None);
        }
    }
}

// === impl Network ===

impl twin::Network {
    /// Adds a host to the network, which is `id` without proof. Needs a tokio runtime, whose clock may be
    /// paused. The host's address, from [`Endpoint::local_addr`], is the same for all of its starts.
    #[must_use]
    pub fn endpoint(
        &self,
        id: &PeerId,
        incarnation: u64,
        config: LinkConfig,
    ) -> (Endpoint, Arrivals) {
        let (host, queue) = self.host(id, config);
        Endpoint::twin(id, incarnation, config, host, queue)
    }
}

/// Greets incoming connections, a bounded number at a time.
async fn listen(
    shared: Arc<EndpointState>,
    endpoint: quinn::Endpoint,
    knocks: mpsc::Sender<Knock>,
) {
    let (mut greetings, handshakes) = (JoinSet::new(), Handshakes::default());
    while let Some(incoming) = endpoint.accept().await {
        while greetings.try_join_next().is_some() {}
        let from = incoming.remote_address();
        let handshake = match handshakes.begin(from.ip(), incoming.remote_address_validated()) {
            Verdict::Begin(handshake) => handshake,
            Verdict::Prove => {
                // The call fails only for an address that is validated already.
                drop(incoming.retry());
                continue;
            }
            Verdict::Refuse => {
                incoming.refuse();
                continue;
            }
        };
        let (shared, knocks) = (Arc::clone(&shared), knocks.clone());
        greetings.spawn(async move {
            let _under_way = handshake;
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

/// Sorts peers from joiners, and both from other connections.
async fn greet(
    shared: Arc<EndpointState>,
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
        let joined = join::serve(connected, shared.enrollment.get(), taken, &shared.config).await;
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

#[cfg(test)]
mod tests;
