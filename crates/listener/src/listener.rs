//! The accept loop: hyper on our own sockets, because `axum::serve` has no deadlines.
//!
//! - **ACC-1** a client that is slow, silent or does not read its answers occupies a connection for a
//!   bounded time (see [`crate::socket`], [`crate::streams`]) and bounded memory.
//! - **ACC-2** at most `limits.connections` are open at once; when file descriptors run out, accepting
//!   pauses and the server stays alive.
//! - **ACC-3** the phases of [`crate::phase`] follow each other from [`Listener::close`] on, and no
//!   connection outlives [`Connections::end`].

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tracing::{debug, warn};

use crate::client::Client;
use crate::connection::{End, enter};
use crate::phase::Phase;
use crate::service::Service;

/// The protocols that a TLS handshake offers, in the order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How long accepting pauses when the system refuses a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The maximum number of connections that are taken from the kernel's queue before the listener closes:
/// the largest queue that Linux has by default.
const QUEUED_MAX: usize = 4096;

/// A listening socket with all of its connections. Dropping a listener closes all of them.
pub struct Listener {
    socket: TcpListener,
    connections: Connections,
}

/// The open connections of a listener. A `Connections` lives on after its listener has closed.
pub struct Connections {
    service: Arc<Service>,
    tls: Option<TlsAcceptor>,
    tasks: JoinSet<End>,
    /// Clients that may have to give way, the oldest first. Some of them may have been admitted, or may
    /// have left.
    strangers: VecDeque<(Client, AbortHandle)>,
    cut_off: u32,
}

// === impl Listener ===

impl Listener {
    /// Returns a listener that serves `service` on `socket`, with the certificate of `tls` if there is
    /// one.
    #[must_use]
    pub fn new(socket: TcpListener, tls: Option<Arc<ServerConfig>>, service: Service) -> Self {
        let tls = tls.map(|tls| {
            let mut tls = ServerConfig::clone(&tls);
            tls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
            TlsAcceptor::from(Arc::new(tls))
        });
        let connections = Connections {
            service: Arc::new(service),
            tls,
            tasks: JoinSet::new(),
            strangers: VecDeque::new(),
            cut_off: 0,
        };
        Self { socket, connections }
    }

    /// Accepts clients until `end` completes.
    pub async fn accept_until(&mut self, end: impl Future<Output = ()>) {
        let Self { socket, connections } = self;
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(ended) = connections.tasks.join_next() => connections.count(ended),
                accepted = socket.accept(), if connections.has_room() => match accepted {
                    Ok((stream, peer)) => connections.admit(stream, peer).await,
                    Err(error) => connections.pause_after(&error).await,
                }
            }
        }
    }

    /// Goes on accepting until `drained` completes, and then closes the socket. Returns the remaining
    /// connections, which close as soon as they have nothing to answer.
    pub async fn close(mut self, drained: impl Future<Output = ()>) -> Connections {
        let service = Arc::clone(&self.connections.service);
        service.phases.enter(Phase::Draining);
        self.accept_until(drained).await;
        self.connections.accept_queued(self.socket);
        service.phases.enter(Phase::Closing);
        self.connections
    }
}

// === impl Connections ===

impl Connections {
    /// Waits until all connections have ended or `deadline` has passed. Returns whether all have ended.
    pub async fn ended_by(&mut self, deadline: Instant) -> bool {
        timeout_at(deadline, self.join_all()).await.is_ok()
    }

    /// Ends the remaining connections: their services are told that unfinished answers end now, and
    /// connections that still send are closed after another `farewell`.
    pub async fn end(&mut self, farewell: Duration) {
        let service = Arc::clone(&self.service);
        service.phases.enter(Phase::Ending);
        drop(timeout(farewell, self.join_all()).await);
        service.phases.enter(Phase::CutOff);
        self.join_all().await;
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.tasks.len()
    }

    /// Returns the number of connections that ended before their clients had read an answer to its end,
    /// since draining began.
    #[must_use]
    pub fn cut_off(&self) -> u32 {
        self.cut_off
    }

    /// Returns whether one more connection may be accepted, if need be in place of one that gives way.
    fn has_room(&mut self) -> bool {
        let is_stranger =
            |client: &Client, task: &AbortHandle| !client.is_admitted() && !task.is_finished();
        self.strangers.retain(|(client, task)| is_stranger(client, task));
        self.tasks.len() < self.service.limits.connections || !self.strangers.is_empty()
    }

    /// Adds a connection, after one that gives way has ended if need be.
    async fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        while self.tasks.len() >= self.service.limits.connections {
            // One that has shown its token meanwhile stays.
            while let Some((client, task)) = self.strangers.pop_front() {
                if client.is_admitted() || task.is_finished() {
                    continue;
                }
                let (listener, peer) = (self.service.name, client.address());
                debug!(listener, peer, "a client without a token gives way");
                task.abort();
                break;
            }
            // The remaining clients have the token, and those beyond the number of streams do not stay
            // long.
            if let Some(ended) = self.tasks.join_next().await {
                self.count(ended);
            }
        }
        self.spawn(stream, peer);
    }

    fn spawn(&mut self, stream: TcpStream, peer: SocketAddr) {
        let client = Client::new(Some(peer));
        let (tls, service) = (self.tls.clone(), Arc::clone(&self.service));
        let task = self.tasks.spawn(enter(stream, tls, service, client.clone()));
        if self.service.limits.strangers_give_way {
            self.strangers.push_back((client, task));
        }
    }

    /// Accepts the connections in the kernel's queue, and closes the listener; later connections are
    /// reset.
    fn accept_queued(&mut self, socket: TcpListener) {
        // Tokio learns of a queued connection only by an event, which may come too late.
        let Ok(socket) = socket.into_std() else { return };
        for _ in 0..QUEUED_MAX {
            let accepted = socket.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, peer))
            });
            match accepted {
                Ok((stream, peer)) => self.spawn(stream, peer),
                Err(error) if is_of_one_client(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let listener = self.service.name;
                    return warn!(listener, %error, "cannot accept the connections in the queue");
                }
            }
        }
    }

    /// Waits if the system has no more sockets; returns at once if only this connection failed.
    async fn pause_after(&self, error: &io::Error) {
        if !is_of_one_client(error) {
            warn!(listener = self.service.name, %error, "cannot accept connections");
            sleep(ACCEPT_PAUSE).await;
        }
    }

    async fn join_all(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.count(ended);
        }
    }

    fn count(&mut self, ended: Result<End, JoinError>) {
        // A connection task that panicked, in a body, has cut its client off.
        let cut_off = ended.unwrap_or(End::CutOff) == End::CutOff;
        if cut_off && self.service.phases.is(Phase::Draining) {
            self.cut_off += 1;
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
