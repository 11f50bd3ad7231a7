//! The client of a request, and the settings in its headers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderValue;
use playhouse_cluster::Client;
use playhouse_telemetry::TraceSpan;
use tokio::time::Instant;

use crate::auth::Key;
use crate::error::{ApiError, Result};

/// The header that says how long the client will wait for its answer to begin, in milliseconds.
const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// The maximum of that time: a day.
const TIMEOUT_MS_MAX: u64 = 24 * 3600 * 1000;

pub(crate) struct Caller {
    key: Option<Arc<Key>>,
    session: Option<HeaderValue>,
    timeout: Option<Duration>,
    /// The span of the HTTP request.
    pub(crate) span: TraceSpan,
}

// === impl Caller ===

impl Caller {
    /// Reads the headers; the key was found before.
    pub(crate) fn of(request: &Request) -> Result<Self> {
        let headers = request.headers();
        let timeout = headers.get(TIMEOUT_HEADER).map(timeout).transpose()?;
        let key = request.extensions().get::<Arc<Key>>().cloned();
        let span = request.extensions().get::<TraceSpan>().cloned();
        let span = span.unwrap_or_else(TraceSpan::none);
        Ok(Self { key, session: headers.get("x-session-id").cloned(), timeout, span })
    }

    pub(crate) fn session(&self) -> Option<&str> {
        self.session.as_ref().and_then(|id| id.to_str().ok())
    }

    pub(crate) fn key(&self) -> Option<&Key> {
        self.key.as_deref()
    }

    pub(crate) fn client(&self) -> Option<&Client> {
        self.key.as_ref().map(|key| &key.client)
    }

    /// Returns the name of the client's key, for metrics; empty without a key.
    pub(crate) fn name(&self) -> &str {
        self.key.as_ref().map_or("", |key| &key.name)
    }

    /// Returns the time at which the client stops waiting for its answer to begin.
    pub(crate) fn deadline(&self, arrived: Instant) -> Option<Instant> {
        self.timeout.map(|timeout| arrived + timeout)
    }
}

fn timeout(value: &HeaderValue) -> Result<Duration> {
    let millis = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    let millis = millis.filter(|millis| (1..=TIMEOUT_MS_MAX).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| {
        let given = String::from_utf8_lossy(value.as_bytes());
        let given: String = given.chars().take(40).collect();
        ApiError::bad_request(format!(
            "the header {TIMEOUT_HEADER} is {given:?}: it must be a whole number of milliseconds \
             between 1 and {TIMEOUT_MS_MAX}"
        ))
    })
}
