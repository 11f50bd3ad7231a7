//! Paths and what answers them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Body as _;

use crate::auth::AdminToken;
use crate::error::ApiError;
use crate::operations::Operations;
use crate::view::{Cluster, Liveness, Token, TokenRequest};

/// Largest body of a request. Then 413.
pub const BODY_BYTES_MAX: usize = 4 << 10;

/// Longest life of a join token: a week.
pub const TTL_SECONDS_MAX: i64 = 7 * 24 * 3600;

/// Answered without the token: orchestrators probe it, and it tells nothing.
const PUBLIC_PATH: &str = "/admin/v1/livez";

/// Read by programs; `tests/api.rs` holds it against the paths and answers.
const OPENAPI: &str = include_str!("openapi.json");

/// What an operator decides.
pub struct AdminConfig {
    /// Asked of every request but those to `/admin/v1/livez`. Nobody has an empty one.
    pub token: String,
}

/// The whole HTTP service.
pub(crate) fn router<O: Operations>(config: &AdminConfig, operations: O) -> Router {
    let token = Arc::new(AdminToken::new(&config.token));
    Router::new()
        .route("/admin/v1/cluster", get(cluster::<O>))
        .route("/admin/v1/tokens", post(create_token::<O>))
        .route("/admin/v1/openapi.json", get(openapi))
        .route(PUBLIC_PATH, get(livez))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(token, admit))
        .with_state(operations)
}

/// Deny by default (**ADM-1**): a path added later is closed until somebody opens it.
async fn admit(State(token): State<Arc<AdminToken>>, request: Request, next: Next) -> Response {
    if request.uri().path() == PUBLIC_PATH || token.admits(request.headers()) {
        next.run(request).await
    } else {
        ApiError::unauthorized().into_response()
    }
}

async fn cluster<O: Operations>(State(operations): State<O>) -> Json<Cluster> {
    Json(operations.status().into())
}

async fn create_token<O: Operations>(
    State(operations): State<O>,
    body: Body,
) -> Result<Json<Token>, ApiError> {
    let ttl = ttl(&whole(body).await?)?;
    let token = operations.create_token(ttl)?;
    let expires_in_seconds = ttl.as_secs();
    tracing::info!(expires_in_seconds, "join token created");
    Ok(Json(Token { token, expires_in_seconds }))
}

async fn whole(body: Body) -> Result<Bytes, ApiError> {
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

fn ttl(body: &[u8]) -> Result<Duration, ApiError> {
    let TokenRequest { ttl_seconds } = serde_json::from_slice(body).map_err(|why| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", format!("invalid body: {why}"))
    })?;
    match u64::try_from(ttl_seconds) {
        Ok(seconds @ 1..) if ttl_seconds <= TTL_SECONDS_MAX => Ok(Duration::from_secs(seconds)),
        _ => {
            let message = format!("must be from 1 to {TTL_SECONDS_MAX}, not {ttl_seconds}");
            Err(ApiError::bad_field("ttl_seconds", message))
        }
    }
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn livez() -> Json<Liveness> {
    Json(Liveness { status: "alive".to_owned() })
}

async fn not_found(request: Request) -> ApiError {
    let message = format!("there is no {}", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} does not answer {method}: see the Allow header");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
