//! The bodies of requests, whole and of bounded size.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::StatusCode;
use http_body::Body as _;

use crate::error::ApiError;

/// The maximum size of a request's body, in bytes. A larger body is answered with 413.
pub const BODY_BYTES_MAX: usize = 4 << 10;

/// Reads a whole body.
///
/// # Errors
/// Returns an error if the body is larger than [`BODY_BYTES_MAX`].
pub(crate) async fn whole(body: Body) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        // The size was announced, so there is no need to wait for the body.
        return Err(too_large());
    }
    // If the client has disconnected, the answer has no reader.
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| too_large())
}
