//! An operation as server-sent events: one event for each step, with the step's time as id, and an `end`
//! event with the whole operation. After a reconnection with `Last-Event-ID` only later steps are sent.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use playhouse_cluster::Operation;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::streams::StreamPermit;
use crate::view;

/// The longest silence of a stream: a comment then shows that the server is alive, and finds out whether
/// the client is.
const SILENCE_MAX: Duration = Duration::from_secs(2);

const EVENT_STREAM: &str = "text/event-stream";

/// Returns whether the client asks for events. (`*/*` does not: such a client gets JSON. Neither does a
/// list with JSON: a client that takes both gets the answer that ends at once.)
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let kinds: Vec<_> = accepted
        .flat_map(|value| value.split(','))
        .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .collect();
    let has = |kind: &str| kinds.iter().any(|accepted| accepted == kind);
    has(EVENT_STREAM) && !has("application/json")
}

/// Returns the id of the last event that the client has seen; 0 before the first.
///
/// # Errors
/// Returns an error if the id has an invalid form.
pub(crate) fn last_event(headers: &HeaderMap) -> Result<u64, ApiError> {
    const NAME: &str = "Last-Event-ID";
    let Some(given) = headers.get(NAME) else { return Ok(0) };
    let id = given.to_str().ok().and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| {
        ApiError::bad_field(NAME, format!("must be the id of an event, a number, not {given:?}"))
    })
}

/// Returns the events of `operation` after `seen`, until it ends. The stream holds the permit.
pub(crate) fn events(
    operation: watch::Receiver<Operation>,
    seen: u64,
    permit: StreamPermit,
) -> Response {
    let follower = Follower { operation, seen, is_first: true, ended: false, _permit: permit };
    let body = Body::from_stream(unfold(follower, |mut follower| async {
        follower.next().await.map(|events| (Ok::<_, Infallible>(events), follower))
    }));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Follower {
    operation: watch::Receiver<Operation>,
    /// The id of the last event that was sent.
    seen: u64,
    is_first: bool,
    ended: bool,
    _permit: StreamPermit,
}

// === impl Follower ===

impl Follower {
    /// Returns the next piece of the stream; `None` after the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        // Steps that exist already are sent at once.
        if !std::mem::take(&mut self.is_first) {
            match timeout(SILENCE_MAX, self.operation.changed()).await {
                Ok(Ok(())) => {}
                // The ledger is gone, and with it the head.
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(b": still there\n\n")),
            }
        }
        let operation = view::Operation::from(self.operation.borrow_and_update().clone());
        let mut text = String::new();
        for step in operation.steps.iter().filter(|step| step.at_unix_us > self.seen) {
            text += &event("step", Some(step.at_unix_us), step);
        }
        self.seen = operation.steps.last().map_or(self.seen, |step| step.at_unix_us.max(self.seen));
        if operation.phase.is_end() {
            text += &event("end", None, &operation);
            self.ended = true;
        }
        // An empty piece would be skipped, and the head of the answer should not wait for the first step.
        Some(if text.is_empty() { Bytes::from_static(b": nothing yet\n\n") } else { text.into() })
    }
}

fn event(name: &str, id: Option<u64>, data: &impl Serialize) -> String {
    let id = id.map_or(String::new(), |id| format!("id: {id}\n"));
    let data = serde_json::to_string(data).expect("names and numbers are JSON");
    format!("event: {name}\n{id}data: {data}\n\n")
}
