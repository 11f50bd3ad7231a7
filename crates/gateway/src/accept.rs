//! The accept loop: hyper on our own sockets, because `axum::serve` has no deadlines.
//!
//! - **ACC-1** a client that is slow, silent or does not read costs a connection for a bounded time
//!   (see [`crate::socket`]) and bounded memory.
//! - **ACC-2** no more than `limits.connections` at once; when file descriptors run out, accepting
//!   pauses and the server lives.
//! - **ACC-3** after the shutdown signal the phases of [`crate::shutdown`] follow each other, and the last
//!   connection is closed `limits.drain_timeout` and `limits.farewell_timeout` after it at the latest.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::gateway::Gateway;
use crate::routes::router;
use crate::shutdown::Phase;
use crate::socket::{Guarded, Socket, Turn};

/// What hyper may buffer per connection, and so the longest head of a request.
const BUFFER_BYTES: usize = 64 << 10;

/// Most header fields of a request.
const HEADERS_MAX: usize = 100;

/// How long accepting pauses when the system refuses a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Most connections that are taken from the kernel's queue before the listener closes: the largest
/// queue that Linux has by default.
const QUEUED_MAX: usize = 4096;

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that did not end by themselves, and were told that the server shuts down.
    pub ended: u32,
    /// Connections that were closed before their client had taken an answer to its end.
    pub cut_off: u32,
}

/// Every connection there is.
struct Connections {
    gateway: Arc<Gateway>,
    router: Router,
    tls: Option<TlsAcceptor>,
    tasks: JoinSet<End>,
    cut_off: u32,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// By itself, or with nothing to send.
    Closed,
    /// In the midst of an answer.
    CutOff,
}

/// Serves `gateway` on `listener` until `signal` completes, then drains (**ACC-3**). Returns when the
/// last connection is closed.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    signal: impl Future<Output = ()>,
) -> Drained {
    let mut connections = Connections::new(Arc::new(gateway));
    connections.accept_until(&listener, signal).await;
    connections.drain(listener).await
}

// === impl Connections ===

impl Connections {
    fn new(gateway: Arc<Gateway>) -> Self {
        let router = router(Arc::clone(&gateway));
        let tls = gateway.tls().cloned().map(TlsAcceptor::from);
        Self { gateway, router, tls, tasks: JoinSet::new(), cut_off: 0 }
    }

    async fn accept_until(&mut self, listener: &TcpListener, end: impl Future<Output = ()>) {
        let most = self.gateway.limits().connections.get();
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(ended) = self.tasks.join_next() => self.count(ended),
                accepted = listener.accept(), if self.tasks.len() < most => match accepted {
                    Ok((stream, _)) => self.spawn(stream),
                    Err(error) => pause_after(&error).await,
                }
            }
        }
    }

    /// The end of a server, from the signal on; see [`crate::shutdown`].
    async fn drain(mut self, listener: TcpListener) -> Drained {
        let gateway = Arc::clone(&self.gateway);
        let (door, shutdown, limits) = (gateway.front_door(), gateway.shutdown(), gateway.limits());
        let deadline = Instant::now() + limits.drain_timeout;
        door.start_drain();
        shutdown.enter(Phase::Draining);
        info!(in_flight = door.in_flight(), deadline = ?limits.drain_timeout, "draining");
        let drained = async { drop(timeout_at(deadline, door.drained()).await) };
        self.accept_until(&listener, drained).await;
        self.accept_queued(listener);
        shutdown.enter(Phase::Closing);
        if timeout_at(deadline, self.join_all()).await.is_err() {
            let (in_flight, connections) = (door.in_flight(), self.tasks.len());
            warn!(in_flight, connections, "the deadline of the drain has passed");
            shutdown.enter(Phase::Ending);
            drop(timeout(limits.farewell_timeout, self.join_all()).await);
            shutdown.enter(Phase::CutOff);
            self.join_all().await;
        }
        let drained = Drained { ended: shutdown.ended(), cut_off: self.cut_off };
        let Drained { ended, cut_off } = drained;
        info!(ended, cut_off, "every connection is closed");
        drained
    }

    /// Accepts what the kernel has queued, and closes the listener: who is in its queue then is reset.
    fn accept_queued(&mut self, listener: TcpListener) {
        // Tokio knows of a connection when it has been told of it, which may be too late.
        let Ok(listener) = listener.into_std() else { return };
        for _ in 0..QUEUED_MAX {
            let accepted = listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            });
            match accepted {
                Ok(stream) => self.spawn(stream),
                Err(error) if is_of_one_client(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return warn!(%error, "cannot accept the connections in the queue"),
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream) {
        let (router, gateway) = (self.router.clone(), Arc::clone(&self.gateway));
        self.tasks.spawn(connection(stream, router, gateway, self.tls.clone()));
    }

    async fn join_all(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            self.count(ended);
        }
    }

    fn count(&mut self, ended: Result<End, JoinError>) {
        // One that has panicked, in a body, has cut its client off.
        if ended.unwrap_or(End::CutOff) == End::CutOff && self.gateway.front_door().is_draining() {
            self.cut_off += 1;
        }
    }
}

/// One client, behind TLS or not. Its handshake has as long as its first request's head.
async fn connection(
    stream: TcpStream,
    router: Router,
    gateway: Arc<Gateway>,
    tls: Option<TlsAcceptor>,
) -> End {
    // Tokens are small and must not wait for the next ones; a failure costs only latency.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return answer(stream, router, &gateway).await };
    let handshake = timeout(gateway.limits().header_timeout, tls.accept(stream));
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        () = gateway.shutdown().reached(Phase::CutOff) => return End::Closed,
    };
    match accepted {
        Ok(Ok(stream)) => return answer(stream, router, &gateway).await,
        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
        Err(_) => debug!("TLS handshake too slow"),
    }
    End::Closed
}

/// One client, until it leaves, misbehaves or is drained.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    router: Router,
    gateway: &Gateway,
) -> End {
    let (socket, turn) = Socket::new(stream, gateway.limits());
    let answers = turn.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let busy = turn.busy();
        let response = router.clone().oneshot(request.map(Body::new));
        async move { Ok::<_, Infallible>(response.await?.map(|body| Guarded::new(body, busy))) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADERS_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = gateway.shutdown().reached(Phase::Closing) => {
            let close = http1::Connection::graceful_shutdown;
            close_gracefully(connection, close, &answers, gateway).await
        }
    };
    match ended {
        None => return End::CutOff,
        Some(Ok(())) => {}
        Some(Err(error)) => debug!(%error, "connection ended early"),
    }
    End::Closed
}

/// Closes a connection as soon as it has nothing to answer: how it ended, or `None` if an answer was cut
/// off.
async fn close_gracefully<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: impl FnOnce(Pin<&mut C>),
    turn: &Turn,
    gateway: &Gateway,
) -> Option<hyper::Result<()>> {
    // The first request may be on its way, from a client that could not know.
    if turn.is_new() {
        let first = timeout(gateway.limits().farewell_timeout, connection.as_mut());
        if let Ok(ended) = first.await {
            return Some(ended);
        }
    }
    close(connection.as_mut());
    tokio::select! {
        biased;
        ended = connection => Some(ended),
        () = gateway.shutdown().reached(Phase::CutOff) => {
            if turn.is_unfinished() { None } else { Some(Ok(())) }
        }
    }
}

/// Waits when the system has no more sockets; goes on at once when only this client failed.
async fn pause_after(error: &io::Error) {
    if !is_of_one_client(error) {
        warn!(%error, "cannot accept connections");
        sleep(ACCEPT_PAUSE).await;
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
