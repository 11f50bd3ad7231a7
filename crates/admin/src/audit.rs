//! The audit log: two lines of JSON for each request that may change the cluster, one before the request
//! is carried out and one with its outcome, and one line for each renewal of a certificate, which no
//! client of the API asks for.
//!
//! - **AUD-1** no change is made that is not in the log: if the first line cannot be written, the request
//!   is refused.
//! - **AUD-2** no line has the token or another header, nor a join token that was made.
//! - **AUD-3** requests without the token are not logged: they change nothing, and could fill the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use playhouse_cluster::OperationId;
use playhouse_listener::Client;
use serde::Serialize;
use serde_json::Value;

use crate::body::whole;
use crate::error::{ApiError, ErrorCode};

/// The destination of audit lines. The command line implements it with a file.
pub trait AuditLog: Send + Sync + 'static {
    /// Writes one line, which has no line feed, with the time in front. May block.
    ///
    /// # Errors
    /// Returns the system's error; the line was not written then.
    fn write(&self, entry: &AuditEntry) -> io::Result<()>;
}

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum AuditEntry {
    /// One of the two lines of a request.
    Request(RequestEntry),
    /// The line of a renewal.
    Renewal(RenewalEntry),
}

/// The outcome of a peer's request for its next certificate.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RenewalEntry {
    /// The peer has its next certificate.
    Renewed {
        /// The role and the name of the peer, as in certificates.
        peer: String,
        /// The end of the certificate, in the format of RFC 3339.
        until: String,
    },
    /// The renewal was refused.
    NotRenewed {
        /// The role and the name of the peer, as in certificates.
        peer: String,
        /// The reason, as text.
        why: String,
    },
}

/// One of the two lines of a request.
#[derive(Clone, Debug, Serialize)]
pub struct RequestEntry {
    event: Event,
    /// The number of the request, which its two lines have in common.
    request: u64,
    /// The name of the token that was shown; there is only one.
    token: &'static str,
    /// The address of the client.
    peer: String,
    method: String,
    /// The path of the request, with its parameters.
    path: String,
    /// The `Idempotency-Key` of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The body of the request, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Value>,
    /// The HTTP status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The code of the error in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// The operation that the request started or named.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Asked,
    Answered,
}

/// The audit log of one API, if it keeps one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Audit {
    log: Option<Arc<dyn AuditLog>>,
    requests: Arc<AtomicU64>,
}

// === impl Audit ===

impl Audit {
    pub(crate) fn new(log: Option<Arc<dyn AuditLog>>) -> Self {
        Self { log, requests: Arc::default() }
    }

    async fn write(log: &Arc<dyn AuditLog>, entry: RequestEntry) -> io::Result<()> {
        let (log, entry) = (Arc::clone(log), AuditEntry::Request(entry));
        let written = tokio::task::spawn_blocking(move || log.write(&entry)).await;
        written.unwrap_or_else(|why| Err(io::Error::other(why)))
    }
}

/// Writes the two lines around a request that may change something.
pub(crate) async fn audit(State(audit): State<Audit>, request: Request, next: Next) -> Response {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let Some(log) = audit.log.as_ref().filter(|_| !is_read) else {
        return next.run(request).await;
    };
    let (head, body) = request.into_parts();
    let body = match whole(body).await {
        Ok(body) => body,
        Err(refused) => return refused.into_response(),
    };
    let request = Request::from_parts(head, Body::from(body.clone()));
    let number = audit.requests.fetch_add(1, Ordering::Relaxed);
    let asked = asked(number, &request, &body);
    if let Err(why) = Audit::write(log, asked.clone()).await {
        let message = format!("the audit log cannot be written, so nothing is changed: {why}");
        tracing::error!(%why, "cannot write the audit log");
        let refused = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "audit_failed", message);
        return refused.into_response();
    }
    let response = next.run(request).await;
    if let Err(why) = Audit::write(log, answered(asked, &response)).await {
        tracing::error!(%why, request = number, "cannot write an outcome into the audit log");
    }
    response
}

fn asked(number: u64, request: &Request, body: &Bytes) -> RequestEntry {
    let header = request.headers().get("Idempotency-Key");
    let uri = request.uri();
    RequestEntry {
        event: Event::Asked,
        request: number,
        token: "admin",
        peer: Client::of(request).map_or_else(|| "unknown".to_owned(), Client::address),
        method: request.method().to_string(),
        path: uri.path_and_query().map_or_else(|| uri.path(), |whole| whole.as_str()).to_owned(),
        key: header.map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned()),
        change: serde_json::from_slice(body).ok(),
        status: None,
        code: None,
        operation: None,
    }
}

fn answered(asked: RequestEntry, response: &Response) -> RequestEntry {
    let extensions = response.extensions();
    RequestEntry {
        event: Event::Answered,
        status: Some(response.status().as_u16()),
        code: extensions.get::<ErrorCode>().map(|code| code.0.clone()),
        operation: extensions.get::<OperationId>().map(|id| id.0),
        ..asked
    }
}
