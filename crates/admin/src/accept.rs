//! The admin API on a listener.
//!
//! A connection carries one request, or over HTTP/2 those that come along with it. Operators ask once a
//! second at most, and so one deadline for the whole connection bounds a slow head, a slow body and a slow
//! reader alike (**ADM-3**). Whoever has not shown the token gives way when all places are taken, the
//! oldest first (**ADM-5**).

use std::future::Future;
use std::time::Duration;

use axum::Router;
use playhouse_listener::{Limits, Listener, Phases, Service, Stay};
use tokio::net::TcpListener;

use crate::operations::Operations;
use crate::routes::{AdminConfig, router};

/// Longest life of a connection that does not follow an operation.
pub const CONNECTION_MAX: Duration = Duration::from_secs(3);

/// Longest life of one that does. The client connects again and goes on behind its last event.
pub const STREAM_MAX: Duration = Duration::from_secs(600);

/// Connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;

/// Requests at once on one connection of HTTP/2.
pub const REQUESTS_MAX: u32 = 16;

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// What a client may send ahead of bodies over HTTP/2: the least that every client begins with.
const WINDOW_BYTES: u32 = (64 << 10) - 1;

/// How long a client may say nothing, and how long it may take when it is asked whether it is there.
const PING: Duration = Duration::from_secs(15);

/// Longer than a connection lives, which bounds everything else that a client may be slow in.
const NEVER: Duration = Duration::from_secs(3600);

/// Serves the admin API on `listener` until `shutdown` completes. What is being answered then is cut
/// off: answers take no time, so that is only who was too slow.
pub async fn serve(
    listener: TcpListener,
    config: AdminConfig,
    operations: impl Operations,
    shutdown: impl Future<Output = ()>,
) {
    let service = service(router(&config, operations));
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
    Service { name: "admin", router, limits, phases: Phases::default(), explain: None }
}

#[cfg(test)]
mod tests;
