//! The state that an endpoint and its connections share.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use playhouse_types::Epoch;
use playhouse_wire::{Hello, PeerId};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::close::{CloseCode, PeerLost};
use crate::config::LinkConfig;
use crate::connection::{Connection, Transport};
use crate::dial::DialError;
use crate::enrollment::Enrollment;
use crate::greeting;
use crate::identity::{Identity, IdentityError};
use crate::inbox::Inbox;
use crate::peer::Peer;
use crate::renewal_service::RenewalService;
use crate::roster::Roster;
use crate::runtime::LinkThread;
use crate::{tls, twin};

/// The state that an endpoint and the connections that come to it share.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) id: PeerId,
    pub(crate) incarnation: u64,
    pub(crate) config: LinkConfig,
    pub(crate) roster: Roster,
    pub(crate) carrier: Carrier,
    pub(crate) enrollment: OnceLock<Arc<Enrollment>>,
    /// The runtime that drives connections.
    pub(crate) handle: Handle,
    pub(crate) thread: Option<Arc<LinkThread>>,
}

/// The network that carries the connections of an endpoint.
#[derive(Debug)]
pub(crate) enum Carrier {
    Quic { endpoint: quinn::Endpoint, shown: Box<Mutex<Shown>> },
    Twin(twin::Host),
}

/// The certificate that new connections show, and their configuration for dialling.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) identity: Identity,
    pub(crate) client: quinn::ClientConfig,
    /// Whether connections are accepted.
    pub(crate) listens: bool,
}

// === impl EndpointState ===

impl EndpointState {
    /// Returns the enrollment that admits nodes and renews certificates, if this process has one.
    pub(crate) fn enrollment(&self) -> Option<&Arc<Enrollment>> {
        self.enrollment.get()
    }

    /// Returns the identity that new connections show; the twin has none.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match &self.carrier {
            Carrier::Quic { shown, .. } => Some(shown.lock().identity.clone()),
            Carrier::Twin(_) => None,
        }
    }

    /// Shows this certificate on new connections from now on; existing connections go on.
    pub(crate) fn show(&self, identity: &Identity) -> Result<(), IdentityError> {
        let Carrier::Quic { endpoint, shown } = &self.carrier else { return Ok(()) };
        let server = tls::server(identity, &self.config)?;
        let client = tls::client(identity, &self.config)?;
        let mut shown = shown.lock();
        (shown.identity, shown.client) = (identity.clone(), client);
        if shown.listens {
            endpoint.set_server_config(Some(server));
        }
        Ok(())
    }

    /// Returns the hello of this process.
    pub(crate) fn hello(&self, epoch: Epoch) -> Hello {
        let (role, name) = (self.id.role(), self.id.name().to_owned());
        Hello { role, name, incarnation: self.incarnation, epoch }
    }

    /// Starts serving a connection whose greeting is complete, or almost so.
    pub(crate) fn start(
        self: &Arc<Self>,
        id: &PeerId,
        hello: &Hello,
        connection: &Connection,
        renewals: Option<RenewalService>,
    ) -> (Peer, Inbox) {
        let _entered = self.handle.enter();
        let (lost, is_lost) = watch::channel(None);
        let (state, watched, peer) = (Arc::clone(self), connection.clone(), id.clone());
        tokio::spawn(async move {
            let why = watched.closed().await;
            state.roster.leave(&peer, &watched);
            tracing::info!(%peer, %why, "peer lost");
            lost.send_replace(Some(why));
        });
        let inbox = Inbox::start(connection, self.config.handshake, renewals);
        let thread = self.thread.clone();
        (Peer::start(id.clone(), hello.clone(), connection.clone(), is_lost, thread), inbox)
    }

    /// Connects to a peer and greets it.
    pub(crate) async fn dial(
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
                let client = shown.lock().client.clone();
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
