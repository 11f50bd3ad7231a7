//! Permits for streams of clients that follow an operation.

use std::sync::Arc;

use axum::http::StatusCode;
use playhouse_listener::Client;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// The maximum number of concurrent streams of events, over all connections. More are answered with 503.
pub const STREAMS_MAX: usize = 16;

/// A permit for one of the [`STREAMS_MAX`] streams.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    _permit: OwnedSemaphorePermit,
}

/// The permits for streams.
#[derive(Clone, Debug)]
pub(crate) struct Streams(Arc<Semaphore>);

// === impl Streams ===

impl Streams {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }

    /// Returns a permit for a stream of `client`, whose connection may then live longer.
    ///
    /// # Errors
    /// Returns an error if all permits are taken.
    pub(crate) fn take(&self, client: &Client) -> Result<StreamPermit, ApiError> {
        let permit = Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{STREAMS_MAX} operations are followed already: ask without \
                                   `Accept: text/event-stream`"
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message)
        })?;
        client.stay();
        Ok(StreamPermit { _permit: permit })
    }
}
