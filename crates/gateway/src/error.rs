//! Errors in OpenAI's shape, on every path: `{"error":{"message","type","param","code"}}`.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use playhouse_cluster::{Excess, LimitHolder, Measure, Rejected};
use serde::Serialize;

use crate::json;
use crate::template::TemplateError;

/// An error as the client sees it: a refusal or a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) code: Option<&'static str>,
    pub(crate) param: Option<String>,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

/// The error object in the body of an answer.
#[derive(Serialize)]
pub(crate) struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A header that openai-python respects before `Retry-After`, which has whole seconds only.
pub(crate) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// OpenAI's code for a request that does not fit the context.
const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";

// === impl ApiError ===

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, code: None, param: None, message, retry_after: None }
    }

    /// Returns a 400: the request is wrong, and `message` says how.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// Returns a 400 because of one field.
    pub(crate) fn bad_param(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = format!("{param}: {message}");
        Self { param: Some(param), ..Self::bad_request(message) }
    }

    /// Returns a client error of another status.
    pub(crate) fn refused(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(status, "invalid_request_error", message).with_code(code)
    }

    /// Returns a 500 for an error of the gateway itself.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
            .with_code("internal_error")
    }

    /// Returns a 500 for a valid request that the engine could not run.
    pub(crate) fn engine_failed(reason: &str) -> Self {
        Self::internal(format!("the generation failed: {reason}")).with_code("engine_failed")
    }

    /// Returns a 400 for a prompt that has `length`, such as `5000 tokens`, and does not fit a context of
    /// `limit` tokens. Clients recognise such errors by these words, so that they can shorten the
    /// conversation: LiteLLM and its fallbacks by "this model's maximum context length is", LangChain and
    /// coding assistants by "prompt is too long" or "exceeds the context window".
    pub(crate) fn prompt_too_long(limit: usize, length: impl std::fmt::Display) -> Self {
        Self::bad_request(format!(
            "prompt is too long: it has {length}, and with one for the answer exceeds the context \
             window. This model's maximum context length is {limit} tokens (--max-model-len)"
        ))
        .with_code(CONTEXT_LENGTH_EXCEEDED)
    }

    /// Returns a 400 for a prompt that fits a context of `limit` tokens, but not together with the
    /// `asked` tokens of the field `param`.
    pub(crate) fn answer_too_long(limit: usize, prompt: usize, param: &str, asked: u32) -> Self {
        let both = prompt + asked as usize;
        let error = Self::bad_request(format!(
            "{param}: This model's maximum context length is {limit} tokens (--max-model-len), but the \
             prompt has {prompt} tokens and {param} is {asked}, {both} in all: lower {param} or shorten \
             the prompt"
        ));
        Self { param: Some(param.to_owned()), ..error.with_code(CONTEXT_LENGTH_EXCEEDED) }
    }

    /// Returns the error of a request whose client has left, which nobody reads.
    pub(crate) fn client_left() -> Self {
        Self::bad_request("the client has left").with_code("client_left")
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "missing or wrong API key: send `Authorization: Bearer KEY` or `x-api-key: KEY`",
        )
        .with_code("invalid_api_key")
    }

    /// Returns a 404 with the names that exist.
    pub(crate) fn model_not_found(asked: &str, names: &[String]) -> Self {
        let message = format!("the model {asked:?} does not exist: this server has {names:?}");
        let error = Self::refused(StatusCode::NOT_FOUND, "model_not_found", message);
        Self { param: Some("model".to_owned()), ..error }
    }

    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        Self { retry_after: Some(Duration::from_secs(1)), ..error.with_code(code) }
    }

    /// Returns a 503: the server is shutting down, and another one may answer.
    pub(crate) fn draining() -> Self {
        Self::unavailable("draining", "the server is shutting down")
    }

    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Returns the error as its JSON object.
    pub(crate) fn body(&self) -> ErrorBody<'_> {
        let Self { message, kind, code, param, .. } = self;
        ErrorBody { error: ErrorFields { message, kind, param: param.as_deref(), code: *code } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = BytesMut::with_capacity(256);
        json::write(&mut body, &self.body());
        let mut response = Response::new(Body::from(body.freeze()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The rest of the body was not read, so the connection cannot be reused.
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(millis));
        }
        response
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Overloaded { retry_after, .. } => Self {
                retry_after: Some(retry_after),
                ..Self::unavailable("overloaded", "all queues are full: try again later")
            },
            Rejected::OverLimit { retry_after, .. } => Self {
                retry_after: Some(retry_after),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_error",
                    format!("{rejected}: try again later"),
                )
                .with_code("rate_limit_exceeded")
            },
            Rejected::Draining => Self::draining(),
            Rejected::NeverFits { tokens, limit } => {
                Self::prompt_too_long(limit, format_args!("{} tokens", tokens - 1))
            }
            Rejected::NeverTogether(Excess { holder, measure, asked, limit }) => {
                let (who, flag) = match (holder, measure) {
                    (LimitHolder::Cluster, Measure::Requests) => {
                        ("this server", "--max-queued-requests")
                    }
                    (LimitHolder::Cluster, Measure::PromptTokens) => {
                        ("this server", "--max-queued-tokens")
                    }
                    (LimitHolder::Client, Measure::Requests) => {
                        ("your API key", "max_concurrent_requests of the key")
                    }
                    (LimitHolder::Client, Measure::PromptTokens) => {
                        ("your API key", "max_queued_tokens of the key")
                    }
                };
                Self::bad_request(format!(
                    "the prompts of this request times n are {asked} {measure}, but {who} has at most \
                     {limit} at once ({flag}): send them in several requests"
                ))
                .with_code("request_too_large")
            }
        }
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        Self { param: Some("messages".to_owned()), ..Self::bad_request(error.to_string()) }
    }
}
