//! The accept loop: hyper on our own sockets, because `axum::serve` has no deadlines.
//!
//! A connection carries one request. Operators ask once a second at most, and so one deadline for
//! the whole connection bounds a slow head, a slow body and a slow reader alike (**ADM-3**).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::operations::Operations;
use crate::routes::{AdminConfig, router};

/// Longest life of a connection.
pub const CONNECTION_MAX: Duration = Duration::from_secs(3);

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
    let router = router(&config, operations);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, router.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept admin connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One client, until it is answered, leaves or is too slow.
async fn connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin, router: Router) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended early"),
        Err(_) => tracing::debug!("admin client too slow"),
    }
}

#[cfg(test)]
mod tests;
