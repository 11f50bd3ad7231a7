//! Traces: spans of sampled requests, sent to an OpenTelemetry collector (OTLP over HTTP, protobuf).
//!
//! - **TR-1** code that records a span never waits: the span is put in a bounded queue, and is dropped and
//!   counted when the queue is full.
//! - **TR-2** a collector that is slow or gone costs one thread that waits for it, and two lines in the log:
//!   when it is first missed, and when it is back. Spans are sent once, and spans that the collector does not
//!   accept are counted.
//! - **TR-3** [`Traces`] sends the spans in the queue when it is dropped, for [`FLUSH`] at most.
//! - **TR-4** a span contains nothing of a prompt or an answer, and no key. Of the data that a client sends,
//!   a span contains numbers, the name of the model and the request id.
//! - **TR-5** an `https` endpoint gets nothing unless its certificate is valid for its host; headers for the
//!   collector (`OTEL_EXPORTER_OTLP_HEADERS`), which may be secret, are in no log and no error.

mod post;
mod queue;
mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::Scheme;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prometheus_client::metrics::counter::Counter;
use tokio_rustls::rustls::ClientConfig;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

pub use self::settings::{InvalidTraceSetting, TraceSettings};

use self::post::Post;
use self::queue::Queue;
use crate::span::TARGET;

/// Longest wait for the collector when the process ends.
pub const FLUSH: Duration = Duration::from_secs(2);

/// Counters of ended spans by outcome.
#[derive(Clone, Debug, Default)]
pub struct SpanCounters {
    /// Spans that the collector accepted.
    pub exported: Counter,
    /// Spans that were lost: the queue was full, or the collector did not accept them.
    pub dropped: Counter,
}

/// The exporter of spans, which sends them to a collector until it is dropped.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    sampler: Sampler,
    counters: SpanCounters,
}

/// The reason why no traces can be sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot send traces to {endpoint}: {why}")]
pub struct TracesError {
    endpoint: String,
    why: String,
}

// === impl Traces ===

impl Traces {
    /// Starts to send spans. Whether the collector can be reached shows later. For an `https` endpoint,
    /// `trust` decides which certificates of the collector are accepted: those signed by the certificates in
    /// the file that `trust` is given, or, without a file, by those that the machine trusts.
    ///
    /// # Errors
    /// When `trust` fails, the system refuses a thread, or the OTLP settings in the environment are invalid.
    pub fn start(
        settings: TraceSettings,
        trust: impl FnOnce(Option<&Path>) -> Result<Arc<ClientConfig>, String>,
    ) -> Result<Self, TracesError> {
        let TraceSettings { endpoint, certificate, sampler } = settings;
        let failed = |why: String| TracesError { endpoint: endpoint.clone(), why };
        let is_tls = |uri: Uri| uri.scheme() == Some(&Scheme::HTTPS);
        let is_tls = endpoint.parse().is_ok_and(is_tls);
        let tls = is_tls.then(|| trust(certificate.as_deref())).transpose().map_err(&failed)?;
        let post = Post::new(tls);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(post.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_retry_policy(RetryPolicy::disabled())
            .with_endpoint(&endpoint)
            .build()
            .map_err(|why| failed(why.to_string()))?;
        let counters = SpanCounters::default();
        let resource = resource();
        let queue = Queue::start(exporter, post, endpoint.clone(), counters.clone(), &resource);
        let queue = queue.map_err(|why| failed(why.to_string()))?;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            // The code that makes the first span of a request has asked the sampler already.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .build();
        Ok(Self { provider, sampler, counters })
    }

    /// Returns the counters of the spans, for [`Metrics`](crate::Metrics).
    #[must_use]
    pub fn counters(&self) -> &SpanCounters {
        &self.counters
    }

    pub(crate) fn sampler(&self) -> Sampler {
        self.sampler.clone()
    }

    /// Returns the layer that takes the spans of requests, and nothing else.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("playhouse"))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, Level::INFO))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // A collector that did not accept spans in time has lost them: counted, and logged by the queue.
        drop(self.provider.shutdown_with_timeout(FLUSH));
    }
}

/// Returns the resource of this service, named `playhouse` unless `OTEL_SERVICE_NAME` or
/// `OTEL_RESOURCE_ATTRIBUTES` name it.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let name = said.get(&"service.name".into()).map(|name| name.to_string());
    let name = name.filter(|name| !name.starts_with("unknown_service"));
    Resource::builder()
        .with_service_name(name.unwrap_or_else(|| "playhouse".to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}
