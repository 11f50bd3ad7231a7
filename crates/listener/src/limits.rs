//! What a client may cost.

use std::time::Duration;

/// Bounds on the time and space that one client, and all together, may take of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Whether the oldest connection whose [`Client`](crate::Client) has not been admitted is ended when
    /// all places are taken and one more client comes.
    pub strangers_give_way: bool,
    /// What a connection is kept for.
    pub stay: Stay,
    /// From the start of a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request (for a new connection: from its start) to the end of its head.
    pub header_timeout: Duration,
    /// How long a connection may wait between two requests.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of an answer; over HTTP/2 also no piece of one on a stream.
    pub write_timeout: Duration,
    /// How long a connection that is new when the listener closes may take to ask its first request.
    pub farewell_timeout: Duration,
    /// The longest head of a request.
    pub head_bytes: usize,
    /// HTTP/2: requests at once on one connection. Clients hold back what is more.
    pub streams: u32,
    /// HTTP/2: what a client may send of bodies, on one connection, before they are read.
    pub window_bytes: u32,
    /// HTTP/2: how long a client may say nothing before it is asked whether it is there.
    pub ping_interval: Duration,
    /// HTTP/2: how long it may take to answer that.
    pub ping_timeout: Duration,
}

/// What a connection is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As many requests as its client likes.
    Requests,
    /// One request; over HTTP/2 also those that come along with it.
    OneRequest {
        /// The longest life of the connection.
        connection: Duration,
        /// How much longer it may live if its client was told to [`stay`](crate::Client::stay).
        stream: Duration,
    },
}
