//! What a listener serves on a connection.

use axum::Router;
use bytes::Bytes;

use crate::limits::Limits;
use crate::phase::Phases;
use crate::refusal::Refusal;

/// An HTTP API and the bounds within which clients may use it.
pub struct Service {
    /// What the log calls it.
    pub name: &'static str,
    /// Paths and what answers them.
    pub router: Router,
    /// What a client may cost.
    pub limits: Limits,
    /// How far its end has got.
    pub phases: Phases,
    /// Makes the JSON body of an HTTP/1.1 response to a head that is refused. Without it there is none.
    pub explain: Option<fn(Refusal) -> Bytes>,
}
