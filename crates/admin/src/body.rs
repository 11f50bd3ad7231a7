//! Bodies of requests, whole and of bounded size.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::StatusCode;
use http_body::Body as _;

use crate::error::ApiError;

/// Largest body of a request. Then 413.
pub const BODY_BYTES_MAX: usize = 4 << 10;

/// The whole of a body.
///
/// # Errors
/// It is larger than [`BODY_BYTES_MAX`].
pub(crate) async fn whole(body: Body) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {BODY_BYTES_MAX} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        // Announced, and not worth waiting for.
        return Err(too_large());
    }
    // If it is the client that broke off, nobody reads the answer.
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| too_large())
}
