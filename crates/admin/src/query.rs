//! The query parameters of a path: `?dry_run=true&force=true&deadline_seconds=30`.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::error::ApiError;

/// How long requests may go on in a drained replica or node, unless a deadline is given.
pub const DEADLINE_SECONDS: u64 = 30;

/// The maximum of that deadline: a day.
pub const DEADLINE_SECONDS_MAX: u64 = 24 * 3600;

/// All parameters that a change may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// Whether to only report the steps of the change.
    pub(crate) dry_run: bool,
    force: Option<bool>,
    deadline: Option<Duration>,
}

// === impl Query ===

impl Query {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self { dry_run: false, force: None, deadline: None };
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                "dry_run" => parsed.dry_run = flag(name, value)?,
                "force" => parsed.force = Some(flag(name, value)?),
                "deadline_seconds" => parsed.deadline = Some(seconds(name, value)?),
                _ => {
                    let known = "dry_run, force and deadline_seconds are known";
                    return Err(ApiError::bad_field(name, format!("no such parameter: {known}")));
                }
            }
        }
        Ok(parsed)
    }

    /// Returns the parameters of a drain: how long requests may go on there, and whether to drain even if
    /// no replica is left to serve.
    pub(crate) fn drain(&self) -> (Duration, bool) {
        let deadline = self.deadline.unwrap_or(Duration::from_secs(DEADLINE_SECONDS));
        (deadline, self.force.unwrap_or(false))
    }

    /// Returns whether to go on even if no replica is left to serve, for a change without a deadline.
    ///
    /// # Errors
    /// Returns an error if a deadline was given.
    pub(crate) fn force(&self) -> Result<bool, ApiError> {
        match self.deadline {
            None => Ok(self.force.unwrap_or(false)),
            Some(_) => Err(ApiError::bad_field("deadline_seconds", "means nothing here")),
        }
    }

    /// Checks that neither a deadline nor `force` was given.
    ///
    /// # Errors
    /// Returns an error if one of them was given.
    pub(crate) fn neither(&self) -> Result<(), ApiError> {
        match self.force {
            None => self.force().map(drop),
            Some(_) => Err(ApiError::bad_field("force", "means nothing here")),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    value
        .parse()
        .map_err(|_| ApiError::bad_field(name, format!("must be true or false, not {value:?}")))
}

fn seconds(name: &str, value: &str) -> Result<Duration, ApiError> {
    let seconds = value.parse().ok().filter(|seconds| *seconds <= DEADLINE_SECONDS_MAX);
    let seconds = seconds.ok_or_else(|| {
        let must = format!("must be from 0 to {DEADLINE_SECONDS_MAX}, not {value:?}");
        ApiError::bad_field(name, must)
    })?;
    Ok(Duration::from_secs(seconds))
}
