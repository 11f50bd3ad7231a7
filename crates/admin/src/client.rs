//! A connection as the routes know it: who it is, and how long it may stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// Streams of events at once, over all connections. Then 503.
pub const STREAMS_MAX: usize = 16;

/// What is known of the other end of a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` in tests that have no socket.
    peer: Option<SocketAddr>,
    /// It has shown the token.
    is_known: AtomicBool,
    /// It reads a stream of events.
    is_reader: AtomicBool,
}

/// A place among the [`STREAMS_MAX`].
#[derive(Debug)]
pub(crate) struct StreamPermit {
    _permit: OwnedSemaphorePermit,
}

/// Places for streams.
#[derive(Clone, Debug)]
pub(crate) struct Streams(Arc<Semaphore>);

// === impl Client ===

impl Client {
    pub(crate) fn new(peer: Option<SocketAddr>) -> Self {
        let inner = Inner { peer, is_known: false.into(), is_reader: false.into() };
        Self { inner: Arc::new(inner) }
    }

    /// The one who sent a request.
    pub(crate) fn of(request: &Request) -> Option<&Self> {
        request.extensions().get()
    }

    /// Its address, for people.
    pub(crate) fn address(&self) -> String {
        self.inner.peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
    }

    /// It has shown the token.
    pub(crate) fn admit(&self) {
        self.inner.is_known.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_known(&self) -> bool {
        self.inner.is_known.load(Ordering::Relaxed)
    }

    pub(crate) fn is_reader(&self) -> bool {
        self.inner.is_reader.load(Ordering::Relaxed)
    }
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Every connection of ours says who it is.
        Ok(parts.extensions.get().cloned().unwrap_or_else(|| Self::new(None)))
    }
}

// === impl Streams ===

impl Streams {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }

    /// A place for a stream of `client`, whose connection may then live longer.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn take(&self, client: &Client) -> Result<StreamPermit, ApiError> {
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{STREAMS_MAX} operations are followed already: ask without \
                                   `Accept: text/event-stream`"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message)
        })?;
        client.inner.is_reader.store(true, Ordering::Relaxed);
        Ok(StreamPermit { _permit: permit })
    }
}
