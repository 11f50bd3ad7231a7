//! Paths and their handlers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, RawQuery, Request, State};
use axum::http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, RETRY_AFTER, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;
use playhouse_telemetry::{Exposition, HttpLabels, Refusal, StatusClass};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::access_log::Access;
use crate::answer::Answer;
use crate::auth::{Key, PUBLIC_PATHS};
use crate::caller::Caller;
use crate::error::{ApiError, RETRY_AFTER_MS, Result};
use crate::fields::Fields;
use crate::gateway::Gateway;
use crate::intake::{Extent, Intake, take_in};
use crate::known_fields::{Endpoint, IGNORED_FIELDS, Ignored};
use crate::readiness::{self, Detail};
use crate::request::{self, Conversation, Job};
use crate::respond::respond;
use crate::shutdown::Phase;
use crate::tokenizer::panic_text;
use crate::trace;
use crate::upload::read_body;

type Shared = State<Arc<Gateway>>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of a client's request id that is repeated to the client.
const REQUEST_ID_MAX: usize = 128;

/// The paths of all routes; the `handler` labels of the metrics are these patterns.
const PATHS: &[&str] = &[
    "/v1/models",
    "/v1/models/{*id}",
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/detokenize",
    "/health",
    "/readyz",
    "/livez",
    "/version",
    "/metrics",
];

/// The state of the layer around every request.
#[derive(Clone)]
struct Edge {
    gateway: Arc<Gateway>,
    /// Whether only this machine can reach the listener.
    is_loopback: bool,
}

/// Returns the router of the whole HTTP service on a listener that only this machine can reach, or others
/// too.
pub(crate) fn router(gateway: Arc<Gateway>, is_loopback: bool) -> Router {
    let edges = Edge { gateway: Arc::clone(&gateway), is_loopback };
    let asked = Arc::clone(&gateway);
    let is_open = move || asked.keys().is_empty();
    let exposed = [REQUEST_ID, RETRY_AFTER, RETRY_AFTER_MS, IGNORED_FIELDS];
    let cors = gateway.cors().layer(exposed, is_open);
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/health", get(readyz))
        .route("/readyz", get(readyz))
        .route("/livez", get(livez))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(edges, edge))
        .layer(cors)
        .with_state(gateway)
}

// Around every request

/// Handles the request id, foreign web pages, the key, panics and metrics around every request.
async fn edge(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let Edge { gateway, is_loopback } = edge;
    let id = request_id(&gateway, &request);
    let labels = (handler(&request), method(request.method()));
    let span = trace::begin(&labels, request.headers(), &id);
    if span.is_on() {
        request.extensions_mut().insert(span.clone());
    }
    let public = PUBLIC_PATHS.contains(&request.uri().path());
    let key = gateway.keys().of(request.headers());
    let is_open = gateway.keys().is_empty();
    let admitted = public || is_open || key.is_some();
    if let Some(key) = key {
        request.extensions_mut().insert(key);
    }
    let access = gateway.logs_access().then(|| Access::begin(&request, labels, &id));
    let refused = match gateway.cors().check(&request, is_open, is_loopback) {
        Err(error) if !public => Some(error),
        _ if !admitted => Some(ApiError::unauthorized()),
        _ => None,
    };
    let mut response = match refused {
        None => answer(&gateway, request, next, &id).await,
        Some(error) => error.into_response(),
    };
    if gateway.shutdown().is(Phase::Draining) {
        // A client that retries on another connection finds another server.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let status = StatusClass::of(response.status().as_u16());
    let labels = HttpLabels { handler: labels.0, method: labels.1, status };
    gateway.metrics().http_requests.get_or_create(&labels).inc();
    trace::responds(&span, &mut response);
    response.headers_mut().insert(REQUEST_ID, id);
    match access {
        Some(access) => access.responds(response),
        None => response,
    }
}

/// Returns the answer of a request's handler, or a 503 `draining` if the handler takes too long during a
/// shutdown.
async fn answer(gateway: &Gateway, request: Request, next: Next, id: &HeaderValue) -> Response {
    let key = request.extensions().get::<Arc<Key>>().cloned();
    // axum's handlers hold nothing that a panic could leave half-changed.
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    let handled = tokio::select! {
        biased;
        handled = handled => handled,
        () = gateway.shutdown().reached(Phase::Ending) => {
            gateway.refused(Refusal::draining, key.as_ref().map_or("", |key| &key.name));
            gateway.shutdown().ended_one();
            return ApiError::draining().into_response();
        }
    };
    handled.unwrap_or_else(|panic| {
        tracing::error!(request_id = ?id, panic = panic_text(&*panic), "handler panicked");
        let id = id.to_str().unwrap_or_default();
        ApiError::internal(format!("internal error; the log has more under request id {id}"))
            .into_response()
    })
}

/// Returns the client's id if it is fit for a log, else a new one.
fn request_id(gateway: &Gateway, request: &Request) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    request.headers().get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        HeaderValue::try_from(gateway.new_id("req-")).expect("hexadecimal is visible ASCII")
    })
}

fn handler(request: &Request) -> &'static str {
    let matched = request.extensions().get::<MatchedPath>();
    let known = |path: &MatchedPath| PATHS.iter().find(|known| **known == path.as_str()).copied();
    matched.and_then(known).unwrap_or("unmatched")
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "OTHER",
    }
}

async fn not_found(request: Request) -> ApiError {
    let path = request.uri().path();
    ApiError::refused(StatusCode::NOT_FOUND, "not_found", format!("there is no {path}"))
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} does not answer {method}: see the Allow header");
    ApiError::refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

// Generation

async fn chat_completions(State(gateway): Shared, request: Request) -> Result<Response> {
    generate(&gateway, request, request::parse_chat).await
}

async fn completions(State(gateway): Shared, request: Request) -> Result<Response> {
    generate(&gateway, request, request::parse_completion).await
}

async fn generate(
    gateway: &Arc<Gateway>,
    request: Request,
    parse: fn(&Intake<'_>, &[u8]) -> Result<Job>,
) -> Result<Response> {
    let arrived = Instant::now();
    let caller = Caller::of(&request)?;
    if gateway.front_door().is_draining() {
        // A client that still sends when the connection closes does not see the answer.
        drop(read_body(gateway, request.into_body()).await);
        gateway.refused(Refusal::draining, caller.name());
        return Err(ApiError::draining());
    }
    let mut job = take_in(gateway, request, parse).await?;
    let ignored = std::mem::take(&mut job.ignored);
    let mut response = respond(Answer::submit(gateway, job, caller, arrived)?).await?;
    ignored.announce(response.headers_mut());
    Ok(response)
}

// Tokens

async fn tokenize(State(gateway): Shared, request: Request) -> Result<Response> {
    let reply = take_in(&gateway, request, |intake, body| {
        let (object, ignored) = intake.parse(body, Endpoint::Tokenize)?;
        let (gateway, fields) = (intake.gateway, Fields::new(&object.fields));
        request::model(gateway, &fields)?;
        let tokens = if fields.get("messages").is_some() {
            Conversation::parse(&fields)?.tokens(intake, Extent::Document)?
        } else {
            let text = object
                .prompt
                .ok_or_else(|| fields.bad("prompt", "is required, unless there are messages"))?;
            let text = text.into_text().ok_or_else(|| fields.bad("prompt", "must be a string"))?;
            let add_special_tokens = fields.flag("add_special_tokens", true)?;
            intake.encode("prompt", &text, add_special_tokens, Extent::Document)?
        };
        let strings = fields.flag("return_token_strs", false)?.then(|| {
            tokens.iter().map(|&token| gateway.tokenizer().token_text(token)).collect::<Vec<_>>()
        });
        let reply = json!({
            "count": tokens.len(),
            "max_model_len": gateway.front_door().max_model_len(),
            "tokens": tokens,
            "token_strs": strings,
        });
        Ok((reply.to_string(), ignored))
    });
    reply.await.map(answered)
}

async fn detokenize(State(gateway): Shared, request: Request) -> Result<Response> {
    let reply = take_in(&gateway, request, |intake, body| {
        let (object, ignored) = intake.parse(body, Endpoint::Detokenize)?;
        let (gateway, fields) = (intake.gateway, Fields::new(&object.fields));
        request::model(gateway, &fields)?;
        let tokens = object.tokens.ok_or_else(|| fields.bad("tokens", "is required"))?;
        let tokens = tokens
            .into_tokens()
            .ok_or_else(|| fields.bad("tokens", "must be a list of token ids"))?;
        let reply = json!({ "prompt": gateway.tokenizer().decode(&tokens, false) });
        Ok((reply.to_string(), ignored))
    });
    reply.await.map(answered)
}

/// Returns the answer to a request with fields that have no effect.
fn answered((json, ignored): (String, Ignored)) -> Response {
    let mut response = ([(CONTENT_TYPE, "application/json")], json).into_response();
    ignored.announce(response.headers_mut());
    response
}

// Models, probes, metrics

fn model_card(gateway: &Gateway, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": gateway.created(),
        "owned_by": "playhouse",
        "root": name,
        "parent": null,
        "max_model_len": gateway.front_door().max_model_len(),
    })
}

async fn models(State(gateway): Shared) -> Response {
    let cards: Vec<_> =
        gateway.model_names().iter().map(|name| model_card(&gateway, name)).collect();
    json_response(json!({ "object": "list", "data": cards }))
}

async fn model(
    State(gateway): Shared,
    path: std::result::Result<Path<String>, PathRejection>,
) -> Result<Response> {
    let Path(asked) = path.map_err(|error| ApiError::bad_param("model", error.body_text()))?;
    let names = gateway.model_names();
    if !names.contains(&asked) {
        return Err(ApiError::model_not_found(&asked, names));
    }
    Ok(json_response(model_card(&gateway, &asked)))
}

/// Answers 200 while the process runs, whether or not it can serve.
async fn livez() -> Response {
    json_response(json!({ "status": "alive" }))
}

/// Answers whether a new request would be accepted; `?verbose` says what is missing. The path is public,
/// but only clients with an API key learn why a replica failed.
async fn readyz(
    State(gateway): Shared,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response> {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let keys = gateway.keys();
    let trusted = keys.is_empty() || keys.of(&headers).is_some();
    let detail = match (verbose, trusted) {
        (false, _) => Detail::Verdict,
        (true, false) => Detail::States,
        (true, true) => Detail::Reasons,
    };
    readiness::answer(gateway.front_door(), detail)
}

async fn version() -> Response {
    json_response(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn metrics(State(gateway): Shared, headers: HeaderMap) -> Response {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let exposition = Exposition::accepted(accept);
    let headers = [(CONTENT_TYPE, exposition.content_type()), (VARY, "accept")];
    (headers, gateway.metrics().encode(exposition)).into_response()
}

fn json_response(value: Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
