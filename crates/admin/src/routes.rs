//! Paths and their handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use playhouse_listener::{Client, WebPage};
use tokio_rustls::rustls::ServerConfig;

use crate::api_state::ApiState;
use crate::audit::{Audit, AuditLog, audit};
use crate::auth::AdminToken;
use crate::body::whole;
use crate::changes::{self, Named};
use crate::error::ApiError;
use crate::follow;
use crate::operations::Operations;
use crate::streams::Streams;
use crate::view::{self, Cluster, Deployment, Liveness, Token, TokenRequest};

/// The maximum lifetime of a join token: a week.
pub const TTL_SECONDS_MAX: i64 = 7 * 24 * 3600;

/// The path that is answered without the token: orchestrators probe it, and it reveals nothing.
const PUBLIC_PATH: &str = "/admin/v1/livez";

/// The description of the API for programs; `tests/admin/api.rs` compares it with the paths and answers.
const OPENAPI: &str = include_str!("openapi.json");

/// The settings of the admin API.
pub struct AdminConfig {
    /// The token that all requests must bring but those to `/admin/v1/livez`. An empty token admits no
    /// request.
    pub token: String,
    /// The audit log of changes, if there is one.
    pub audit: Option<Arc<dyn AuditLog>>,
    /// The TLS configuration with the certificate for clients; without one, the API is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
}

/// The rules of admission.
#[derive(Clone)]
struct Admission {
    token: Arc<AdminToken>,
    /// Whether only this machine can reach the listener.
    is_loopback: bool,
}

/// Returns the router of the whole HTTP service on a listener that only this machine can reach, or others
/// too.
pub(crate) fn router<O: Operations>(
    config: &AdminConfig,
    operations: O,
    is_loopback: bool,
) -> Router {
    let admission = Admission { token: Arc::new(AdminToken::new(&config.token)), is_loopback };
    let audited = Audit::new(config.audit.clone());
    let shared = ApiState { operations, streams: Streams::new() };
    Router::new()
        .route("/admin/v1/cluster", get(cluster::<O>))
        .route("/admin/v1/tokens", post(create_token::<O>))
        .route("/admin/v1/openapi.json", get(openapi))
        .route(PUBLIC_PATH, get(livez))
        .merge(operation_routes())
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(audited, audit))
        .layer(from_fn_with_state(admission, admit))
        .with_state(shared)
}

/// Returns the routes of changes and of their operations.
fn operation_routes<O: Operations>() -> Router<ApiState<O>> {
    use changes::{
        abort, drain_node, drain_replica, patch_deployment, remove_node, remove_replica,
        restart_replica, revoke_node, undrain_node,
    };
    let drain = post(drain_node::<O>).delete(undrain_node::<O>);
    Router::new()
        .route("/admin/v1/deployment", get(deployment::<O>).patch(patch_deployment::<O>))
        .route("/admin/v1/operations", get(operations::<O>))
        .route("/admin/v1/operations/{id}", get(operation::<O>).delete(abort::<O>))
        .route("/admin/v1/replicas/{id}/drain", post(drain_replica::<O>))
        .route("/admin/v1/replicas/{id}/restart", post(restart_replica::<O>))
        .route("/admin/v1/replicas/{id}", delete(remove_replica::<O>))
        .route("/admin/v1/nodes/{name}/drain", drain)
        .route("/admin/v1/nodes/{name}/revoke", post(revoke_node::<O>))
        .route("/admin/v1/nodes/{name}", delete(remove_node::<O>))
}

/// Denies access by default (**ADM-1**): a path added later is closed until it is listed as public.
async fn admit(State(admission): State<Admission>, request: Request, next: Next) -> Response {
    let is_public = request.uri().path() == PUBLIC_PATH;
    if !is_public && let Err(foreign) = check_page(&request, admission.is_loopback) {
        return foreign.into_response();
    }
    if admission.token.admits(request.headers()) {
        if let Some(client) = Client::of(&request) {
            client.admit();
        }
    } else if !is_public {
        return ApiError::unauthorized().into_response();
    }
    next.run(request).await
}

/// Checks that no web page of another site sends the request, and none that has pointed its own name to
/// this machine (**ADM-7**).
fn check_page(request: &Request, is_loopback: bool) -> Result<(), ApiError> {
    let page = WebPage::of(request);
    let (code, message) = if is_loopback && !page.calls_by_own_name() {
        let message = format!(
            "the request calls the server {:?}, which is not a name of this machine: call it localhost, \
             or listen on another address with --admin-host",
            page.called()
        );
        ("foreign_host", message)
    } else if !page.is_same_origin() {
        let origin = page.origin.unwrap_or_default();
        ("foreign_origin", format!("web pages of {origin:?} may not use the admin API"))
    } else {
        return Ok(());
    };
    Err(ApiError::new(StatusCode::FORBIDDEN, code, message))
}

async fn cluster<O: Operations>(State(shared): State<ApiState<O>>) -> Json<Cluster> {
    let operation = running(&shared.operations).await;
    Json(Cluster { operation, ..shared.operations.status().into() })
}

async fn deployment<O: Operations>(State(shared): State<ApiState<O>>) -> Json<Deployment> {
    let operation = running(&shared.operations).await;
    let cluster = Cluster::from(shared.operations.status());
    let deployment = shared.operations.deployment().await;
    Json(Deployment::new(deployment, operation, &cluster.replicas))
}

/// Returns the operation that is under way.
async fn running(operations: &impl Operations) -> Option<view::Operation> {
    let id = operations.deployment().await.running?;
    let running = operations.operation(id).await?.borrow().clone();
    Some(running.into())
}

async fn operations<O: Operations>(State(shared): State<ApiState<O>>) -> Json<view::OperationList> {
    let mut operations: Vec<_> =
        shared.operations.operations().await.into_iter().rev().map(view::Operation::from).collect();
    for operation in &mut operations {
        // All steps of a hundred operations are too much to read.
        operation.steps.drain(..operation.steps.len().saturating_sub(1));
    }
    Json(view::OperationList { operations })
}

async fn operation<O: Operations>(
    State(shared): State<ApiState<O>>,
    name: Named,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = name.operation()?;
    let found = shared.operations.operation(id).await;
    let found = found.ok_or(playhouse_cluster::Refused::NoOperation(id))?;
    if follow::is_asked_for(&headers) {
        let seen = follow::last_event(&headers)?;
        return Ok(follow::events(found, seen, shared.streams.take(&client)?));
    }
    let operation = found.borrow().clone();
    Ok(Json(view::Operation::from(operation)).into_response())
}

async fn create_token<O: Operations>(
    State(shared): State<ApiState<O>>,
    body: Body,
) -> Result<Json<Token>, ApiError> {
    let ttl = ttl(&whole(body).await?)?;
    let token = shared.operations.create_token(ttl)?;
    let expires_in_seconds = ttl.as_secs();
    tracing::info!(expires_in_seconds, "join token created");
    Ok(Json(Token { token, expires_in_seconds }))
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
    ApiError::not_found("not_found", message)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} does not answer {method}: see the Allow header");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
