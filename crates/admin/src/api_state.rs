//! The state that the routes share.

use crate::streams::Streams;

/// The state that the routes share.
#[derive(Clone)]
pub(crate) struct ApiState<O> {
    pub(crate) operations: O,
    pub(crate) streams: Streams,
}
