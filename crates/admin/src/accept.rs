//! The accept loop: hyper on our own sockets, because `axum::serve` has no deadlines.
//!
//! A connection carries one request. Operators ask once a second at most, and so one deadline for
//! the whole connection bounds a slow head, a slow body and a slow reader alike (**ADM-3**). Whoever
//! has not shown the token gives way when all places are taken, the oldest first (**ADM-5**).

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tower::ServiceExt;

use crate::client::Client;
use crate::operations::Operations;
use crate::routes::{AdminConfig, router};

/// Longest life of a connection that does not follow an operation.
pub const CONNECTION_MAX: Duration = Duration::from_secs(3);

/// Longest life of one that does. The client connects again and goes on behind its last event.
pub const STREAM_MAX: Duration = Duration::from_secs(600);

/// Connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// What hyper may buffer per connection, and so the longest head of a request.
const BUFFER_BYTES: usize = 16 << 10;

/// How long accepting pauses when the system refuses a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the admin API on `listener` until `shutdown` completes. What is being answered then is cut
/// off: answers take no time, so that is only who was too slow.
pub async fn serve(
    listener: TcpListener,
    config: AdminConfig,
    operations: impl Operations,
    shutdown: impl Future<Output = ()>,
) {
    let mut connections = Connections::new(router(&config, operations), config.tls);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            Some(_) = connections.tasks.join_next() => {}
            accepted = listener.accept(), if connections.has_room() => match accepted {
                Ok((stream, peer)) => connections.enter(stream, peer).await,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept admin connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Everybody who is connected.
struct Connections {
    router: Router,
    tls: Option<TlsAcceptor>,
    tasks: JoinSet<()>,
    /// Those who have not shown the token, the oldest first. May name some who have, or have left.
    strangers: VecDeque<(Client, AbortHandle)>,
}

// === impl Connections ===

impl Connections {
    fn new(router: Router, tls: Option<Arc<ServerConfig>>) -> Self {
        let tls = tls.map(TlsAcceptor::from);
        Self { router, tls, tasks: JoinSet::new(), strangers: VecDeque::new() }
    }

    /// Whether there is a place, or somebody who gives way.
    fn has_room(&mut self) -> bool {
        let is_stranger =
            |client: &Client, task: &AbortHandle| !client.is_known() && !task.is_finished();
        self.strangers.retain(|(client, task)| is_stranger(client, task));
        self.tasks.len() < CONNECTIONS_MAX || !self.strangers.is_empty()
    }

    /// Takes one more in.
    async fn enter(&mut self, stream: TcpStream, peer: SocketAddr) {
        while self.tasks.len() >= CONNECTIONS_MAX {
            if let Some((client, task)) = self.strangers.pop_front() {
                tracing::debug!(
                    peer = client.address(),
                    "an admin client without a token gives way"
                );
                task.abort();
            }
            // Whoever is left has the token, and no more than the streams stay long.
            self.tasks.join_next().await;
        }
        let client = Client::new(Some(peer));
        let (router, tls) = (self.router.clone(), self.tls.clone());
        let task = self.tasks.spawn(enter(stream, tls, router, client.clone()));
        self.strangers.push_back((client, task));
    }
}

/// One client, behind TLS or not.
async fn enter(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router, client: Client) {
    let Some(tls) = tls else { return connection(stream, router, client).await };
    match timeout(CONNECTION_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, router, client).await,
        Ok(Err(error)) => tracing::debug!(%error, "admin TLS handshake failed"),
        Err(_) => tracing::debug!("admin TLS handshake too slow"),
    }
}

/// One client, until it is answered, leaves or is too slow.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    router: Router,
    client: Client,
) {
    let sender = client.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(sender.clone());
        router.clone().oneshot(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .keep_alive(false)
            .header_read_timeout(None)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut ended = timeout(CONNECTION_MAX, &mut connection).await;
    if ended.is_err() && client.is_reader() {
        ended = timeout(STREAM_MAX, connection).await;
    }
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended early"),
        Err(_) => tracing::debug!("admin client too slow"),
    }
}

#[cfg(test)]
mod tests;
