//! A connection as routes know it: who it is, and how long it may stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of the other end of a connection; an extension of each of its requests. Cheap to clone.
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
    /// The client at the address `peer`, of whom nothing else is known.
    #[must_use]
    pub fn new(peer: Option<SocketAddr>) -> Self {
        Self { inner: Arc::new(Inner { peer, is_admitted: false.into(), stays: false.into() }) }
    }

    /// The client that sent a request.
    pub fn of<B>(request: &hyper::Request<B>) -> Option<&Self> {
        request.extensions().get()
    }

    /// Its address, for people.
    #[must_use]
    pub fn address(&self) -> String {
        self.inner.peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
    }

    /// Notes that the client has shown a credential: it is no stranger any more.
    pub fn admit(&self) {
        self.inner.is_admitted.store(true, Ordering::Relaxed);
    }

    /// Lets the connection live as long as one that reads a stream
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
