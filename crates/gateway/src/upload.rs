//! The body of a request on its way in, bounded in size, in time, and together with those of all others.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::error::{ApiError, Result};
use crate::gateway::{Gateway, Limits};

/// The bytes of a body that need no room among those of all requests.
const FREE_BODY_BYTES: usize = 64 << 10;

/// The body of a request, with the room that it takes until it is parsed.
pub(crate) struct HeldBody {
    pub(crate) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Reads the whole body. A body that is slightly too large is read to its end: a client that still sends
/// when the connection closes does not see the answer.
pub(crate) async fn read_body(gateway: &Gateway, body: Body) -> Result<HeldBody> {
    let limits = gateway.limits();
    if body.size_hint().lower() > discarded_max(limits) as u64 {
        return Err(too_large(limits));
    }
    timeout(limits.body_timeout, read(gateway, body)).await.unwrap_or_else(|_| {
        let seconds = limits.body_timeout.as_secs_f32();
        let message = format!("the body did not arrive within {seconds} s");
        Err(ApiError::refused(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
    })
}

async fn read(gateway: &Gateway, mut body: Body) -> Result<HeldBody> {
    let limits = gateway.limits();
    let whole = body.size_hint().upper().unwrap_or(u64::MAX).min(limits.body_bytes as u64);
    let whole_kib = u32::try_from(whole.div_ceil(1024)).unwrap_or(u32::MAX);
    let mut total = 0;
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    let mut room: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > discarded_max(limits) {
            return Err(too_large(limits));
        }
        if total > limits.body_bytes {
            (joined, room) = (Vec::new(), None);
            continue;
        }
        if total > FREE_BODY_BYTES && room.is_none() {
            // All of it at once: bodies that hold a part would wait for each other.
            let place = Arc::clone(gateway.body_room()).acquire_many_owned(whole_kib).await;
            room = Some(place.expect("nothing closes it"));
        }
        if first.is_empty() {
            // Most bodies are one frame: no copy.
            first = data;
            continue;
        }
        if joined.is_empty() {
            // A body of a known length is copied once.
            let known = body.size_hint().exact().map_or(0, |rest| rest as usize);
            joined.reserve_exact(total + known);
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&data);
    }
    if total > limits.body_bytes {
        return Err(too_large(limits));
    }
    let bytes = if joined.is_empty() { first } else { joined.into() };
    Ok(HeldBody { bytes, _room: room })
}

/// Returns the size up to which a body is read only to be discarded.
fn discarded_max(limits: &Limits) -> usize {
    4 * limits.body_bytes
}

fn too_large(limits: &Limits) -> ApiError {
    let message = format!("the body is larger than {} bytes", limits.body_bytes);
    ApiError::refused(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
