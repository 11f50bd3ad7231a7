//! What the routes share.

use crate::streams::Streams;

/// What the routes share.
#[derive(Clone)]
pub(crate) struct ApiState<O> {
    pub(crate) operations: O,
    pub(crate) streams: Streams,
}
