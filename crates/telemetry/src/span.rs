//! Spans of traced requests, for crates that do not depend on OpenTelemetry.
//!
//! A request that is not traced has spans too: they are empty, and cost a comparison.

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

/// The target of every span in this file, by which logs exclude spans and traces include them.
pub(crate) const TARGET: &str = "playhouse::trace";

/// The sampler that decides which requests are traced; unset when none are.
static SAMPLER: OnceLock<Sampler> = OnceLock::new();

/// A span of a traced request, or an empty one. The span lasts from its creation until the last of its clones
/// is dropped.
#[derive(Clone, Debug)]
pub struct TraceSpan(Span);

/// The trace context that a client sends with a request (W3C Trace Context).
#[derive(Clone, Copy, Debug, Default)]
pub struct TraceHeaders<'a> {
    /// The header `traceparent`.
    pub parent: Option<&'a str>,
    /// The header `tracestate`.
    pub state: Option<&'a str>,
}

/// The value of a span's attribute.
pub type TraceValue = Value;

/// Starts to trace requests, as `sampler` decides.
pub(crate) fn trace_requests(sampler: Sampler) {
    // Logs are set up once, and this with them.
    let _ = SAMPLER.set(sampler);
}

/// Returns whether a request is to be traced.
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
    /// Returns an empty span.
    #[must_use]
    pub fn none() -> Self {
        Self(Span::none())
    }

    /// Returns the span of a request that has arrived, if the sampler selects the request; an empty span
    /// otherwise. The span belongs to the client's trace, if the client has one.
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

    /// Returns a new span within this one, which begins now.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        if !self.is_on() {
            return Self::none();
        }
        Self(info_span!(target: TARGET, parent: &self.0, "part", otel.name = name))
    }

    /// Returns whether the span is not empty.
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

    /// Adds an event to the span.
    pub fn event(&self, name: &'static str, attributes: &[(&'static str, &dyn Display)]) {
        if self.is_on() {
            let pair = |(key, value): &(&'static str, &dyn Display)| {
                KeyValue::new(*key, value.to_string())
            };
            self.0.add_event(name, attributes.iter().map(pair).collect());
        }
    }

    /// Links the span to another one, which may be of another trace.
    pub fn link(&self, other: &Self) {
        if let Some(other) = other.context().filter(|_| self.is_on()) {
            self.0.add_link(other);
        }
    }

    /// Marks the span as failed; the text gives the reason, without anything that a client sent.
    pub fn fail(&self, why: &'static str) {
        if self.is_on() {
            self.0.set_status(Status::error(why));
            self.0.set_attribute("error.type", why);
        }
    }

    /// Returns the header `traceresponse` (W3C Trace Context Level 2), with the ids of the trace and the
    /// span.
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
