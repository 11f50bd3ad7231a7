//! The access log: one event for each request, when its response has ended.
//!
//! An event has no text of the client's: the path is the pattern of its route (**nothing that a client says
//! is logged**, see `telemetry::logs`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};
use playhouse_listener::Client;
use tokio::time::Instant;
use tracing::info;

use crate::auth::Key;

/// A request on its way, for the access log.
pub(crate) struct Access {
    client: String,
    key: Option<Arc<Key>>,
    method: &'static str,
    /// The pattern of the route.
    path: &'static str,
    id: HeaderValue,
    began: Instant,
}

/// The body of a response that is logged when it ends.
struct LoggedBody {
    body: Body,
    access: Access,
    status: u16,
    bytes: u64,
    /// Whether the body was sent to its end.
    complete: bool,
}

// === impl Access ===

impl Access {
    /// Begins the entry of a request that has arrived.
    pub(crate) fn begin(
        request: &Request,
        (path, method): (&'static str, &'static str),
        id: &HeaderValue,
    ) -> Self {
        let client = Client::of(request).map_or_else(|| "unknown".to_owned(), Client::address);
        let key = request.extensions().get::<Arc<Key>>().cloned();
        Self { client, key, method, path, id: id.clone(), began: Instant::now() }
    }

    /// Logs the entry when the body of `response` has ended, or is given up.
    pub(crate) fn responds(self, response: Response) -> Response {
        let status = response.status().as_u16();
        let logged = |body| LoggedBody { body, access: self, status, bytes: 0, complete: false };
        response.map(|body| Body::new(logged(body)))
    }
}

// === impl LoggedBody ===

impl http_body::Body for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(None) => self.complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        let Access { client, key, method, path, id, began } = &self.access;
        info!(
            %client,
            key = key.as_ref().map(|key| &*key.name),
            method,
            path,
            status = self.status,
            bytes = self.bytes,
            ms = began.elapsed().as_millis() as u64,
            // A client that leaves early does not read the rest.
            complete = self.complete || self.body.is_end_stream(),
            request_id = id.to_str().unwrap_or_default(),
            "request"
        );
    }
}
