//! The span of an HTTP request that generates: its parameters and its outcome.
//!
//! Its attributes are those of OpenTelemetry's conventions for HTTP servers and for generative AI, and
//! those that vLLM sets. No attribute has text of a request or an answer.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use playhouse_telemetry::{TraceHeaders, TraceSpan};
use playhouse_types::SamplingParams;
use tokio::time::Instant;

use crate::choice::{Choice, Finish, Setting, Usage};
use crate::request::Shape;

/// The header of W3C Trace Context Level 2.
const TRACE_RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Begins the span of a request that has arrived.
pub(crate) fn begin(
    (route, method): &(&'static str, &'static str),
    headers: &HeaderMap,
    request_id: &HeaderValue,
) -> TraceSpan {
    let name = match (*method, *route) {
        ("POST", "/v1/chat/completions") => "POST /v1/chat/completions",
        ("POST", "/v1/completions") => "POST /v1/completions",
        _ => return TraceSpan::none(),
    };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let client = TraceHeaders { parent: text("traceparent"), state: text("tracestate") };
    let span = TraceSpan::request(name, client);
    if span.is_on() {
        span.set("http.request.method", *method);
        span.set("http.route", *route);
        span.set("url.scheme", "http");
        span.set("gen_ai.request.id", request_id.to_str().unwrap_or_default().to_owned());
    }
    span
}

/// Records the beginning of the response, and adds `traceresponse` to it.
pub(crate) fn responds(span: &TraceSpan, response: &mut Response) {
    let Some(header) = span.response_header() else { return };
    let status = response.status();
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.fail("server_error");
    }
    if let Ok(header) = HeaderValue::try_from(header) {
        response.headers_mut().insert(TRACE_RESPONSE, header);
    }
}

/// Records the parameters of a request.
pub(crate) fn asks(setting: &Setting, sampling: &SamplingParams, n: u32) {
    let span = &setting.caller.span;
    if !span.is_on() {
        return;
    }
    let operation = match setting.form.shape {
        Shape::Chat => "chat",
        Shape::Completion => "text_completion",
    };
    span.set("gen_ai.operation.name", operation);
    span.set("gen_ai.provider.name", "playhouse");
    span.set("gen_ai.request.model", setting.form.model.clone());
    span.set("gen_ai.request.max_tokens", i64::from(sampling.max_tokens));
    span.set("gen_ai.request.temperature", f64::from(sampling.temperature));
    span.set("gen_ai.request.top_p", f64::from(sampling.top_p));
    span.set("gen_ai.request.choice.count", i64::from(n));
    span.set("gen_ai.request.n", i64::from(n));
    span.set("gen_ai.request.stream", setting.form.stream.is_some());
}

/// Records the end of an answer.
pub(crate) fn answered(setting: &Setting, choices: &[Choice], usage: impl FnOnce() -> Usage) {
    let span = &setting.caller.span;
    if !span.is_on() || choices.is_empty() {
        return;
    }
    let usage = usage();
    span.set("gen_ai.response.model", setting.form.model.clone());
    span.set_list("gen_ai.response.finish_reasons", choices.iter().map(reason));
    for name in ["gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"] {
        span.set(name, i64::from(usage.prompt));
    }
    for name in ["gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"] {
        span.set(name, i64::from(usage.completion));
    }
    span.set("gen_ai.usage.cache_read.input_tokens", i64::from(usage.cached));
    span.set("gen_ai.usage.num_sequences", choices.len() as i64);
    if let Some(first) = choices.iter().filter_map(Choice::first_token).min() {
        let waited = (first - setting.arrived).as_secs_f64();
        span.set("gen_ai.latency.time_to_first_token", waited);
    }
    span.set("gen_ai.latency.e2e", (Instant::now() - setting.arrived).as_secs_f64());
    if choices.iter().any(|choice| matches!(choice.finish, Some(Finish::Failed(_)))) {
        span.fail("generation_failed");
    }
}

fn reason(choice: &Choice) -> &'static str {
    match &choice.finish {
        Some(Finish::Stop(_)) => "stop",
        Some(Finish::Length) => "length",
        Some(Finish::Failed(_)) => "error",
        None => "cancelled",
    }
}
