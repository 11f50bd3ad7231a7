//! The gateway on a listener: its bounds, and its shutdown (see [`crate::shutdown`]).

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use playhouse_cluster::FrontDoor;
use playhouse_listener::{Limits as Bounds, Listener, Refusal, Service, Stay};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::error::ApiError;
use crate::gateway::{Gateway, Limits};
use crate::json;
use crate::routes::router;

/// The maximum size of the head of a request, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// The maximum number of concurrent requests on one connection of HTTP/2: a proxy may use one for many
/// clients.
const STREAMS_MAX: u32 = 256;

/// The bytes of bodies that a client may send ahead over HTTP/2, so that large bodies are not slow over a
/// long distance.
const WINDOW_BYTES: u32 = 1 << 20;

/// The time between two events about the requests that a shutdown waits for.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// The outcome of a server's shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The number of requests that did not end by themselves, and were told that the server shuts down.
    pub ended: u32,
    /// The number of connections that were closed before their clients had read an answer to its end.
    pub cut_off: u32,
}

/// Serves `gateway` on `listener` until `signal` completes, then drains: the last connection is closed at
/// most `limits.drain_timeout` plus `limits.farewell_timeout` after the signal.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    signal: impl Future<Output = ()>,
) -> Drained {
    let gateway = Arc::new(gateway);
    let (door, shutdown, limits) = (gateway.front_door(), gateway.shutdown(), gateway.limits());
    // Nothing else is certain about an address that is not known.
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let service = service(&gateway, is_loopback);
    let mut listener = Listener::new(listener, gateway.tls().cloned(), service);
    listener.accept_until(signal).await;
    let deadline = Instant::now() + limits.drain_timeout;
    info!(in_flight = door.in_flight(), deadline = ?limits.drain_timeout, "draining");
    door.start_drain();
    let drained = async {
        tokio::select! {
            biased;
            _ = timeout_at(deadline, door.drained()) => {}
            never = tell(door, deadline) => match never {},
        }
    };
    let mut connections = listener.close(drained).await;
    if !connections.ended_by(deadline).await {
        let (in_flight, open) = (door.in_flight(), connections.open());
        warn!(in_flight, connections = open, "the deadline of the drain has passed");
        connections.end(limits.farewell_timeout).await;
    }
    let drained = Drained { ended: shutdown.ended(), cut_off: connections.cut_off() };
    let Drained { ended, cut_off } = drained;
    info!(ended, cut_off, "every connection is closed");
    drained
}

/// Logs what a shutdown waits for, for as long as the future is polled.
async fn tell(door: &FrontDoor, deadline: Instant) -> Infallible {
    loop {
        sleep(TOLD_EVERY).await;
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        info!(in_flight = door.in_flight(), seconds_left = left, "waiting for requests to end");
    }
}

fn service(gateway: &Arc<Gateway>, is_loopback: bool) -> Service {
    Service {
        name: "api",
        router: router(Arc::clone(gateway), is_loopback),
        limits: bounds(gateway.limits()),
        phases: gateway.shutdown().phases().clone(),
        explain,
    }
}

fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        connections: limits.connections.get(),
        strangers_give_way: false,
        stay: Stay::Requests,
        // A handshake may take as long as the head of the first request.
        handshake_timeout: limits.header_timeout,
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        write_timeout: limits.write_timeout,
        farewell_timeout: limits.farewell_timeout,
        head_bytes: HEAD_BYTES,
        streams: STREAMS_MAX,
        window_bytes: WINDOW_BYTES,
        ping_interval: limits.ping_interval,
        ping_timeout: limits.write_timeout,
    }
}

/// Returns the error for a client whose request has an invalid head (**GW-1**).
fn explain(refusal: Refusal) -> Bytes {
    let (status, code) = (refusal.status(), refusal.code());
    let mut body = BytesMut::new();
    json::write(&mut body, &ApiError::refused(status, code, refusal.to_string()).body());
    body.freeze()
}
