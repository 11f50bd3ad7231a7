//! Typed handles of every metric, and their text form.

use std::fmt::{self, Write};
use std::sync::OnceLock;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::buckets::{SECONDS, TOKENS};
use crate::exposition::{Exposition, to_text};
use crate::fleet::{FleetMetrics, OperationCounters};
use crate::names;
use crate::process::ProcessMetrics;
use crate::replica::{LatencyMetrics, ReplicaFamilies, ReplicaMetrics};
use crate::spellings::Spellings;
use crate::traces::SpanCounters;

/// Every metric of one served model; the metrics of its replicas are labelled `engine`, as in vLLM. Handles
/// are shared with the registry: recording is a few atomic operations (a short lock for histograms), and
/// nothing is recorded twice (**TEL-1**).
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,

    /// Answered HTTP requests. Recorded by the gateway, as are all that follow.
    pub http_requests: Family<HttpLabels, Counter>,
    /// Seconds per token after the first, one observation per generation of two tokens or more.
    pub time_per_output_token: Histogram,
    /// Seconds from the arrival of a request to its end.
    pub e2e_latency: Histogram,
    /// Prompt tokens, counted when the first token of a generation arrives.
    pub prompt_tokens: Counter,
    /// Generated tokens, counted as they arrive.
    pub generation_tokens: Counter,
    /// Prompt tokens per finished generation.
    pub request_prompt_tokens: Histogram,
    /// Generated tokens per finished generation.
    pub request_generation_tokens: Histogram,
    /// `max_tokens` per finished generation.
    pub request_max_tokens: Histogram,
    /// Choices per prompt, one observation per HTTP request.
    pub request_n: Histogram,
    /// Ended generations by reason.
    pub request_success: Family<FinishLabels, Counter>,

    /// Requests that were refused, or were not computed to their end.
    pub requests_refused: Family<RefusalLabels, Counter>,
    /// Streams that ended with an error event.
    pub streams_failed: Family<StreamFailureLabels, Counter>,
    /// Seconds without tokens for a generation that left lost or drained ranks, one observation each time.
    pub stream_gap: Histogram,
    /// Requests that wait because no replica can serve. Recorded by the cluster.
    pub requests_parked: Gauge,

    /// Renewals of the cluster's certificates, and refusals to renew one. Recorded by the command line.
    pub certificate_renewals: Family<RenewalLabels, Counter>,

    /// Metrics of the cluster: nodes, devices, replicas, operations and certificates.
    pub fleet: FleetMetrics,
    /// Metrics of this process.
    pub process: ProcessMetrics,

    /// Metrics that each replica records.
    replicas: ReplicaFamilies,
    on_scrape: OnScrape,
}

/// The function that looks up values when a client asks for the metrics.
#[derive(Default)]
struct OnScrape(OnceLock<Look>);

type Look = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Labels of [`Metrics::http_requests`]; all of them from fixed sets (**TEL-2**).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    /// Pattern of the route, such as `/v1/models/{id}`.
    pub handler: &'static str,
    /// HTTP method, in capitals.
    pub method: &'static str,
    /// Class of the HTTP status.
    pub status: StatusClass,
}

/// The first digit of an HTTP status, written `2xx`. Statuses of one class are equal, because each of
/// them would be a series of the same labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusClass(u16);

/// Labels of [`Metrics::request_success`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FinishLabels {
    /// Reason why the generation ended.
    pub finished_reason: Finished,
}

/// The reason why a generation ended, in vLLM's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum Finished {
    /// The model sampled a stop token, or the answer contains a stop string.
    stop,
    /// The generation reached `max_tokens` or the context length.
    length,
    /// The client disconnected.
    abort,
    /// The engine failed.
    error,
}

/// Labels of [`Metrics::requests_refused`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// Reason of the refusal.
    pub reason: Refusal,
    /// Name of the API key, from the configuration; empty without one.
    pub key: String,
}

/// The reason why a request was not computed, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum Refusal {
    /// The queues were full.
    overloaded,
    /// The holder of the API key had as much queued and running as allowed.
    over_limit,
    /// The server was shutting down.
    draining,
    /// No replica could ever hold the request.
    never_fits,
    /// No replica served the request in time.
    unserved,
    /// The request had not begun at its deadline.
    expired,
}

/// Labels of [`Metrics::streams_failed`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamFailureLabels {
    /// Code of the error event.
    pub reason: StreamFailure,
}

/// The code of an error event in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum StreamFailure {
    /// The engine could not continue the generation.
    engine_failed,
    /// No replica served the request in time.
    unavailable,
    /// The request had not begun at its deadline.
    timeout,
    /// The server shut down.
    draining,
}

/// Labels of [`Metrics::certificate_renewals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RenewalLabels {
    /// Kind of the certificate's holder.
    pub role: Holder,
    /// Outcome of the renewal.
    pub outcome: RenewalOutcome,
}

/// The role of a certificate's holder in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum Holder {
    /// The head itself.
    head,
    /// The agent of a machine.
    node,
    /// A rank process.
    shard,
}

/// The outcome of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum RenewalOutcome {
    /// The holder has a new certificate.
    renewed,
    /// The head refused a new certificate.
    refused,
}

// === impl Metrics ===

impl Metrics {
    /// Returns all metrics at zero, labelled `model_name="…"`.
    #[must_use]
    pub fn new(model_name: &str) -> Self {
        let (spans, operations) = Default::default();
        Self::of_head(model_name, &spans, &operations)
    }

    /// Returns the metrics of a head: those of [`Metrics::new`], with the given counters of spans and of
    /// operations.
    #[must_use]
    pub fn of_head(model_name: &str, spans: &SpanCounters, operations: &OperationCounters) -> Self {
        let mut registry = Registry::default();
        let process = ProcessMetrics::new(&mut Spellings(&mut registry));
        let label = ("model_name".into(), model_name.to_owned().into());
        let mut add = Spellings(registry.sub_registry_with_label(label));
        let mut metrics = Self {
            http_requests: add.metric(names::HTTP_REQUESTS, Family::default()),
            time_per_output_token: add.histogram(names::TIME_PER_OUTPUT_TOKEN, SECONDS),
            e2e_latency: add.histogram(names::E2E_LATENCY, SECONDS),
            prompt_tokens: add.metric(names::PROMPT_TOKENS, Counter::default()),
            generation_tokens: add.metric(names::GENERATION_TOKENS, Counter::default()),
            request_prompt_tokens: add.histogram(names::REQUEST_PROMPT_TOKENS, TOKENS),
            request_generation_tokens: add.histogram(names::REQUEST_GENERATION_TOKENS, TOKENS),
            request_max_tokens: add.histogram(names::REQUEST_MAX_TOKENS, TOKENS),
            request_n: add.histogram(names::REQUEST_N, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
            request_success: add.metric(names::REQUEST_SUCCESS, Family::default()),
            requests_refused: add.metric(names::REQUESTS_REFUSED, Family::default()),
            streams_failed: add.metric(names::STREAMS_FAILED, Family::default()),
            stream_gap: add.histogram(names::STREAM_GAP, SECONDS),
            requests_parked: add.metric(names::REQUESTS_PARKED, Gauge::default()),
            certificate_renewals: add.metric(names::CERTIFICATE_RENEWALS, Family::default()),
            fleet: FleetMetrics::new(&mut add, operations),
            process,
            replicas: ReplicaFamilies::new(&mut add),
            on_scrape: OnScrape::default(),
            registry: Registry::default(),
        };
        add.metric(names::TRACE_SPANS_EXPORTED, spans.exported.clone());
        add.metric(names::TRACE_SPANS_DROPPED, spans.dropped.clone());
        // A rate over a series that appears with its first event misses that event.
        for finished_reason in [Finished::stop, Finished::length, Finished::abort, Finished::error]
        {
            drop(metrics.request_success.get_or_create(&FinishLabels { finished_reason }));
        }
        for reason in Refusal::ALL {
            let labels = RefusalLabels { reason, key: String::new() };
            drop(metrics.requests_refused.get_or_create(&labels));
        }
        for reason in StreamFailure::ALL {
            drop(metrics.streams_failed.get_or_create(&StreamFailureLabels { reason }));
        }
        for role in [Holder::head, Holder::node, Holder::shard] {
            for outcome in [RenewalOutcome::renewed, RenewalOutcome::refused] {
                let labels = RenewalLabels { role, outcome };
                drop(metrics.certificate_renewals.get_or_create(&labels));
            }
        }
        metrics.registry = registry;
        metrics
    }

    /// Returns the metrics of a replica, which appear with this call.
    #[must_use]
    pub fn replica(&self, replica: u32) -> ReplicaMetrics {
        self.replicas.of(replica)
    }

    /// Returns the times that clients of a replica see, which appear with this call.
    #[must_use]
    pub fn latency(&self, replica: u32) -> LatencyMetrics {
        self.replicas.latency(replica)
    }

    /// Runs `look` whenever a client asks for the metrics, to set the values that are looked up. Only the
    /// first call has an effect.
    pub fn on_scrape(&self, look: impl Fn(&Self) + Send + Sync + 'static) {
        drop(self.on_scrape.0.set(Box::new(look)));
    }

    /// Encodes all metrics in a text format.
    #[must_use]
    pub fn encode(&self, exposition: Exposition) -> String {
        if let Some(look) = self.on_scrape.0.get() {
            look(self);
        }
        let mut text = String::with_capacity(32 << 10);
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        match exposition {
            Exposition::OpenMetrics => text,
            Exposition::Text => to_text(&text),
        }
    }
}

// === impl OnScrape ===

impl fmt::Debug for OnScrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnScrape").field(&self.0.get().is_some()).finish()
    }
}

// === impl StreamFailure ===

impl StreamFailure {
    const ALL: [Self; 4] = [Self::engine_failed, Self::unavailable, Self::timeout, Self::draining];
}

// === impl Refusal ===

impl Refusal {
    const ALL: [Self; 6] = [
        Self::overloaded,
        Self::over_limit,
        Self::draining,
        Self::never_fits,
        Self::unserved,
        Self::expired,
    ];
}

// === impl StatusClass ===

impl StatusClass {
    /// Returns the class of a status.
    #[must_use]
    pub fn of(status: u16) -> Self {
        Self(status / 100)
    }
}

impl EncodeLabelValue for StatusClass {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        write!(encoder, "{}xx", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::iter;

    use super::*;
    use crate::fleet::{CertificateKind, NodeCondition};

    /// Returns the value of every series, by its name and labels.
    fn series(text: &str) -> BTreeMap<&str, f64> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a line is a name and a value");
                (name, value.parse().expect("a value is a number"))
            })
            .collect()
    }

    #[test]
    fn one_recording_appears_under_both_names() {
        let metrics = Metrics::new("tiny");
        metrics.prompt_tokens.inc_by(7);
        metrics.latency(2).time_to_first_token.observe(0.5);
        metrics.replica(3).kv_cache_usage.set(0.25);
        metrics
            .http_requests
            .get_or_create(&HttpLabels {
                handler: "/v1/models/{id}",
                method: "GET",
                status: StatusClass::of(404),
            })
            .inc();
        let text = metrics.encode(Exposition::OpenMetrics);
        let series = series(&text);
        let labels = r#"model_name="tiny""#;
        for prefix in ["playhouse_", "vllm:"] {
            assert_eq!(series[&*format!("{prefix}prompt_tokens_total{{{labels}}}")], 7.0);
            let sum = format!("{prefix}time_to_first_token_seconds_sum{{{labels},engine=\"2\"}}");
            assert_eq!(series[&*sum], 0.5);
        }
        assert_eq!(series[r#"vllm:kv_cache_usage_perc{model_name="tiny",engine="3"}"#], 0.25);
        let http = r#"http_requests_total{model_name="tiny",handler="/v1/models/{id}",method="GET",status="4xx"}"#;
        assert_eq!(series[http], 1.0);
    }

    #[test]
    fn statuses_of_one_class_are_one_series() {
        let metrics = Metrics::new("tiny");
        for status in [400, 404, 499, 500, 503, 200] {
            let (handler, status) = ("/health", StatusClass::of(status));
            let labels = HttpLabels { handler, method: "GET", status };
            metrics.http_requests.get_or_create(&labels).inc();
        }
        let text = metrics.encode(Exposition::Text);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<_> = lines.map(|line| line.rsplit_once(' ').expect("a value").0).collect();
        assert_eq!(series(&text).len(), lines.len(), "no series is written twice");
        let refused =
            r#"http_requests_total{model_name="tiny",handler="/health",method="GET",status="4xx"}"#;
        assert_eq!(series(&text)[refused], 3.0);
    }

    #[test]
    fn every_name_is_exported_once_with_its_type_and_the_text_ends_properly() {
        let metrics = Metrics::new("tiny");
        metrics.replica(0).has_blocks(16, 9);
        metrics.fleet.certificate(CertificateKind::tls, Some(std::time::UNIX_EPOCH));
        let labels = HttpLabels { handler: "/health", method: "GET", status: StatusClass::of(200) };
        metrics.http_requests.get_or_create(&labels).inc();
        let text = metrics.encode(Exposition::OpenMetrics);
        for name in names::ALL {
            for spelling in iter::once(name.ours).chain(name.vllm) {
                let prefix = format!("# TYPE {spelling} ");
                assert_eq!(text.matches(&prefix).count(), 1, "{spelling}");
            }
        }
        assert!(text.contains(r#"block_size="16",num_gpu_blocks="9"} 1"#));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_looked_up_is_as_new_as_the_text() {
        let metrics = Metrics::new("tiny");
        let looks = std::sync::atomic::AtomicUsize::new(0);
        metrics.on_scrape(move |metrics| {
            let count = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            metrics.fleet.nodes(&vec![NodeCondition::lost; count]);
        });
        let series = r#"playhouse_nodes{model_name="tiny",state="lost"}"#;
        for count in 1..4 {
            assert!(
                metrics.encode(Exposition::OpenMetrics).contains(&format!("{series} {count}\n"))
            );
        }
        assert!(
            metrics.encode(Exposition::OpenMetrics).contains(r#"playhouse_build_info{version=""#),
            "no model"
        );
    }

    #[test]
    fn a_hostile_model_name_stays_inside_its_label() {
        let text = Metrics::new("a\"} 1\n\\b").encode(Exposition::OpenMetrics);
        assert!(text.contains(r#"model_name="a\"} 1\n\\b""#));
    }
}
