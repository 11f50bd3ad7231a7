//! The client of a connection, as routes know it: its address, and how long its connection may stay open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The data kept about the client of a connection. Each request of the connection has it as an extension.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` without a socket, as in tests.
    peer: Option<SocketAddr>,
    is_admitted: AtomicBool,
    stays: AtomicBool,
}

// === impl Client ===

impl Client {
    /// Returns a client at the address `peer`, without any other data.
    #[must_use]
    pub fn new(peer: Option<SocketAddr>) -> Self {
        Self { inner: Arc::new(Inner { peer, is_admitted: false.into(), stays: false.into() }) }
    }

    /// Returns the client that sent `request`, if a listener has set it.
    pub fn of<B>(request: &hyper::Request<B>) -> Option<&Self> {
        request.extensions().get()
    }

    /// Returns the client's address as text for logs.
    #[must_use]
    pub fn address(&self) -> String {
        self.inner.peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
    }

    /// Marks the client as admitted, because it has shown a credential. An admitted client keeps its
    /// connection when others must give way.
    pub fn admit(&self) {
        self.inner.is_admitted.store(true, Ordering::Relaxed);
    }

    /// Allows the connection to live as long as one that reads a stream
    /// ([`Stay::OneRequest`](crate::Stay::OneRequest)).
    pub fn stay(&self) {
        self.inner.stays.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.inner.is_admitted.load(Ordering::Relaxed)
    }

    pub(crate) fn stays(&self) -> bool {
        self.inner.stays.load(Ordering::Relaxed)
    }
}
