//! Spans of traced requests, for crates that know nothing of OpenTelemetry.
//!
//! A request that is not traced has spans too: they are nothing, and cost a comparison.

use std::fmt::Display;
use std::sync::OnceLock;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample,
};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The target of every span here, by which logs leave them out and traces take them in.
pub(crate) const TARGET: &str = "playhouse::trace";

/// Says which requests are traced; unset when none are.
static SAMPLER: OnceLock<Sampler> = OnceLock::new();

/// A part of a traced request, or nothing. It lasts from its making until the last of its clones is
/// dropped.
#[derive(Clone, Debug)]
pub struct TraceSpan(Span);

/// What a client says about the trace that it has begun (W3C Trace Context).
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceHeaders<'a> {
    /// The header `traceparent`.
    pub parent: Option<&'a str>,
    /// The header `tracestate`.
    pub state: Option<&'a str>,
}

/// What a span can have as an attribute.
pub type TraceValue = Value;

/// From now on requests are traced.
pub(crate) fn trace_requests(sampler: Sampler) {
    // Logs are set up once, and this with them.
    let _ = SAMPLER.set(sampler);
}

/// Whether a request is to be traced.
fn samples(sampler: &Sampler, client: Option<&Context>, name: &str) -> bool {
    let trace = match client {
        Some(client) => client.span().span_context().trace_id(),
        None => RandomIdGenerator::default().new_trace_id(),
    };
    let sampled = sampler.should_sample(client, trace, name, &SpanKind::Server, &[], &[]);
    sampled.decision == SamplingDecision::RecordAndSample
}

// === impl TraceSpan ===

impl TraceSpan {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(Span::none())
    }

    /// The span of a request that has arrived: in the trace of its client, if that has one, and if the
    /// sampler wants it.
    #[must_use]
    pub fn request(name: &str, headers: TraceHeaders<'_>) -> Self {
        let Some(sampler) = SAMPLER.get() else { return Self::none() };
        let client = headers.parent.map(|_| TraceContextPropagator::new().extract(&headers));
        let client = client.filter(Context::has_active_span);
        // Before there is anything to throw away: most requests end here where few are traced.
        if !samples(sampler, client.as_ref(), name) {
            return Self::none();
        }
        let span = info_span!(
            target: TARGET, parent: None, "request", otel.name = name, otel.kind = "server"
        );
        if let Some(client) = client {
            // Only fails for a span that has begun.
            let _ = span.set_parent(client);
        }
        Self(span)
    }

    /// A part of this one, which begins now.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        if !self.is_on() {
            return Self::none();
        }
        Self(info_span!(target: TARGET, parent: &self.0, "part", otel.name = name))
    }

    /// Whether it is more than nothing.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.0.is_disabled()
    }

    /// Adds an attribute.
    pub fn set(&self, key: &'static str, value: impl Into<TraceValue>) {
        if self.is_on() {
            self.0.set_attribute(key, value);
        }
    }

    /// Adds an attribute that is a list.
    pub fn set_list(&self, key: &'static str, values: impl Iterator<Item = &'static str>) {
        if self.is_on() {
            let values: Vec<StringValue> = values.map(Into::into).collect();
            self.0.set_attribute(key, Value::Array(values.into()));
        }
    }

    /// Something happens within it.
    pub fn event(&self, name: &'static str, attributes: &[(&'static str, &dyn Display)]) {
        if self.is_on() {
            let pair = |(key, value): &(&'static str, &dyn Display)| {
                KeyValue::new(*key, value.to_string())
            };
            self.0.add_event(name, attributes.iter().map(pair).collect());
        }
    }

    /// It has to do with another one, which may be of another trace.
    pub fn link(&self, other: &Self) {
        if let Some(other) = other.context().filter(|_| self.is_on()) {
            self.0.add_link(other);
        }
    }

    /// It has failed; the text says why, without anything that a client said.
    pub fn fail(&self, why: &'static str) {
        if self.is_on() {
            self.0.set_status(Status::error(why));
            self.0.set_attribute("error.type", why);
        }
    }

    /// The header `traceresponse` (W3C Trace Context Level 2): the trace and the span.
    #[must_use]
    pub fn response_header(&self) -> Option<String> {
        let context = self.context()?;
        Some(format!("00-{}-{}-01", context.trace_id(), context.span_id()))
    }

    fn context(&self) -> Option<SpanContext> {
        self.is_on().then(|| self.0.context().span().span_context().clone())
    }
}

// === impl TraceHeaders ===

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.parent,
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
