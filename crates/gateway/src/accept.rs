//! The accept loop: hyper on our own sockets, because `axum::serve` has no deadlines.
//!
//! - **ACC-1** a client that is slow, silent or does not read costs a connection for a bounded time
//!   (see [`crate::socket`]) and bounded memory.
//! - **ACC-2** no more than `limits.connections` at once; when file descriptors run out, accepting
//!   pauses and the server lives.
//! - **ACC-3** after the shutdown signal nothing new is accepted, running requests finish, and after
//!   `limits.drain_timeout` the rest is cut off.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::gateway::{Gateway, Limits};
use crate::routes::router;
use crate::socket::{Guarded, Socket};

/// What hyper may buffer per connection, and so the longest head of a request.
const BUFFER_BYTES: usize = 64 << 10;

/// Most header fields of a request.
const HEADERS_MAX: usize = 100;

/// How long accepting pauses when the system refuses a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the drain timeout passed.
    pub cut_off: usize,
}

/// Serves `gateway` on `listener` until `shutdown` completes, then drains (**ACC-3**). Returns when
/// the last connection is closed.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let gateway = Arc::new(gateway);
    let router = router(Arc::clone(&gateway));
    let limits = gateway.limits();
    let tls = gateway.tls().cloned().map(TlsAcceptor::from);
    let (stopping, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections.get() => {
                match accepted {
                    Ok((stream, _)) => {
                        let connection = connection(stream, router.clone(), limits.clone(),
                            tls.clone(), stopped.clone());
                        connections.spawn(connection);
                    }
                    Err(error) => pause_after(&error).await,
                }
            }
        }
    }
    // Connections queued by the kernel are refused from here on.
    drop(listener);
    drop(stopping);
    let all_closed = async { while connections.join_next().await.is_some() {} };
    let drained = timeout(limits.drain_timeout, all_closed).await;
    let cut_off = if drained.is_ok() { 0 } else { connections.len() };
    connections.shutdown().await;
    Drained { cut_off }
}

/// One client, behind TLS or not. Its handshake has as long as its first request's head.
async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    stopping: watch::Receiver<()>,
) {
    // Tokens are small and must not wait for the next ones; a failure costs only latency.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return answer(stream, router, limits, stopping).await };
    match timeout(limits.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => answer(stream, router, limits, stopping).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake too slow"),
    }
}

/// One client, until it leaves, misbehaves or is drained.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    router: Router,
    limits: Limits,
    mut stopping: watch::Receiver<()>,
) {
    let (socket, turn) = Socket::new(stream, &limits);
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
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Waits when the system has no more sockets; goes on at once when only this client failed.
async fn pause_after(error: &io::Error) {
    let one_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    );
    if one_client {
        return;
    }
    tracing::warn!(%error, "cannot accept connections");
    sleep(ACCEPT_PAUSE).await;
}
