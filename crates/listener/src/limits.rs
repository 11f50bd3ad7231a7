//! Bounds on the resources that clients may use.

use std::time::Duration;

/// Bounds on the time and memory that one client, and all clients together, may take of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Whether a new client, when no connection is free, ends the oldest connection whose
    /// [`Client`](crate::Client) has not been admitted.
    pub strangers_give_way: bool,
    /// How long, and for how many requests, a connection is kept.
    pub stay: Stay,
    /// From the start of a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request (for a new connection: from its start) to the end of its head.
    pub header_timeout: Duration,
    /// How long a connection may wait between two requests.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of an answer; over HTTP/2 also no piece of an answer on one
    /// stream.
    pub write_timeout: Duration,
    /// How long a connection that is new when the listener closes may take to ask its first request.
    pub farewell_timeout: Duration,
    /// The maximum size of the head of a request. Over HTTP/2 each field counts for 32 bytes more.
    pub head_bytes: usize,
    /// HTTP/2: the number of concurrent requests on one connection. Clients hold further requests back.
    pub streams: u32,
    /// HTTP/2: the bytes of request bodies that a client may send on one connection before the listener
    /// reads them.
    pub window_bytes: u32,
    /// HTTP/2: how long a client may be silent before the listener pings it.
    pub ping_interval: Duration,
    /// HTTP/2: how long a client may take to answer a ping.
    pub ping_timeout: Duration,
}

/// How long, and for how many requests, a connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// The connection carries any number of requests.
    Requests,
    /// The connection carries one request; over HTTP/2 also those that are concurrent with it.
    OneRequest {
        /// The maximum lifetime of the connection.
        connection: Duration,
        /// How much longer the connection may live once [`Client::stay`](crate::Client::stay) was called.
        stream: Duration,
    },
}
