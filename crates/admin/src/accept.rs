//! The admin API on a listener.
//!
//! A connection carries one request, or over HTTP/2 those that are concurrent with it. Clients send a
//! request once a second at most, so one deadline for the whole connection bounds a slow head, a slow
//! body and a slow reader alike (**ADM-3**). When all connections are taken, the oldest one whose client
//! has not shown the token is closed for a new one (**ADM-5**).

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use playhouse_listener::{Limits, Listener, Phases, Refusal, Service, Stay};
use tokio::net::TcpListener;

use crate::error::ApiError;
use crate::operations::Operations;
use crate::routes::{AdminConfig, router};

/// The maximum lifetime of a connection that does not follow an operation.
pub const CONNECTION_MAX: Duration = Duration::from_secs(3);

/// The maximum lifetime of a connection that follows an operation. The client then reconnects and
/// continues after its last event.
pub const STREAM_MAX: Duration = Duration::from_secs(600);

/// The maximum number of concurrent connections; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// The maximum number of concurrent requests on one connection of HTTP/2.
pub const REQUESTS_MAX: u32 = 16;

/// The maximum size of the head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// The bytes of bodies that a client may send ahead over HTTP/2: the initial window of every client.
const WINDOW_BYTES: u32 = (64 << 10) - 1;

/// How long a client may be silent before it is pinged, and how long it may take to answer the ping.
const PING: Duration = Duration::from_secs(15);

/// A duration longer than any connection lives; the lifetime of a connection bounds all other slowness of
/// a client.
const NEVER: Duration = Duration::from_secs(3600);

/// Serves the admin API on `listener` until `shutdown` completes. Unfinished answers are cut off then:
/// answers take no time, so that affects only clients that were too slow.
pub async fn serve(
    listener: TcpListener,
    config: AdminConfig,
    operations: impl Operations,
    shutdown: impl Future<Output = ()>,
) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let service = service(router(&config, operations, is_loopback));
    Listener::new(listener, config.tls, service).accept_until(shutdown).await;
}

fn service(router: Router) -> Service {
    let stay = Stay::OneRequest { connection: CONNECTION_MAX, stream: STREAM_MAX };
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        strangers_give_way: true,
        stay,
        handshake_timeout: CONNECTION_MAX,
        header_timeout: NEVER,
        idle_timeout: NEVER,
        write_timeout: NEVER,
        farewell_timeout: Duration::ZERO,
        head_bytes: HEAD_BYTES,
        streams: REQUESTS_MAX,
        window_bytes: WINDOW_BYTES,
        ping_interval: PING,
        ping_timeout: PING,
    };
    Service { name: "admin", router, limits, phases: Phases::default(), explain }
}

/// Returns the error for a client whose request has an invalid head (**ADM-2**).
fn explain(refusal: Refusal) -> Bytes {
    ApiError::new(refusal.status(), refusal.code(), refusal.to_string()).body()
}

#[cfg(test)]
mod tests;
