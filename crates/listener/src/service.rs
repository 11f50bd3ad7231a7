//! The service that a listener provides on its connections.

use axum::Router;
use bytes::Bytes;

use crate::limits::Limits;
use crate::phase::Phases;
use crate::refusal::Refusal;

/// An HTTP API and the bounds within which clients may use it.
pub struct Service {
    /// The name of the API in logs.
    pub name: &'static str,
    /// The paths of the API and their handlers.
    pub router: Router,
    /// The bounds on the resources that clients may use.
    pub limits: Limits,
    /// The progress of the API's shutdown.
    pub phases: Phases,
    /// Makes the JSON body of a response to a refused head.
    pub explain: fn(Refusal) -> Bytes,
}
