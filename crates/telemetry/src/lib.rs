//! Logs, traces and metrics, with every metric name in one place.
//!
//! - **TEL-1** a metric is recorded once and exported under every spelling that it has: Playhouse's own
//!   (`playhouse_*`, base units) and the one that dashboards and routers made for vLLM ask for.
//! - **TEL-2** label values come from fixed sets or from the configuration, never from a client, so
//!   the number of series is bounded.
//!
//! Not here: when a metric is recorded (see the crates that hold a [`Metrics`]), and how metrics are served
//! (see `gateway`).
#![forbid(unsafe_code)]

mod buckets;
mod cause;
mod exposition;
mod fleet;
mod logs;
mod metrics;
pub mod names;
mod process;
mod replica;
mod span;
mod spellings;
mod traces;

pub use cause::{Cause, CauseCounters};
pub use exposition::Exposition;
pub use fleet::{
    CertificateKind, DeviceCondition, FleetMetrics, NodeCondition, OperationCounters,
    OperationOutcome, ReplicaCondition,
};
pub use logs::{LogFormat, LogsAlreadySet, init_child_logs, init_logs};
pub use metrics::{
    FinishLabels, Finished, Holder, HttpLabels, Metrics, Refusal, RefusalLabels, RenewalLabels,
    RenewalOutcome, StatusClass, StreamFailure, StreamFailureLabels,
};
pub use process::{ProcessMetrics, ProcessUsage};
pub use replica::{LatencyMetrics, ReplicaMetrics};
pub use span::{TraceHeaders, TraceSpan, TraceValue};
pub use traces::{FLUSH, InvalidTraceSetting, SpanCounters, TraceSettings, Traces, TracesError};
