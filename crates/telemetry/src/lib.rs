//! Logs, and every metric name once.
//!
//! - **TEL-1** a metric is recorded once and exported under every spelling it has: ours
//!   (`playhouse_*`, base units) and the one dashboards and routers made for vLLM ask for.
//! - **TEL-2** label values come from fixed sets or from the configuration, never from a client, so
//!   the number of series is bounded.
//!
//! Not here: when anything is recorded (see the crates that hold a [`Metrics`]), and how it is
//! served (see `gateway`).
#![forbid(unsafe_code)]

mod logs;
mod metrics;
pub mod names;
mod replica;

pub use logs::{LogsAlreadySet, init_logs};
pub use metrics::{CONTENT_TYPE, FinishLabels, Finished, HttpLabels, Metrics, StatusClass};
pub use replica::ReplicaMetrics;
