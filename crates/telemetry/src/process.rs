//! Metrics that every process exports, under the names that Prometheus client libraries agree on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::names;
use crate::spellings::Spellings;

/// The metrics of this process. Recorded by the command line.
#[derive(Debug)]
pub struct ProcessMetrics {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge<f64, AtomicU64>,
}

/// The resources that a process uses at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessUsage {
    /// User and system time since the process started.
    pub cpu: Duration,
    /// Bytes of resident memory.
    pub resident_bytes: u64,
    /// Bytes of address space.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// File descriptors that the process may open; `None` if there is no limit.
    pub max_fds: Option<u64>,
    /// Number of threads.
    pub threads: u64,
    /// Start time of the process.
    pub start: SystemTime,
}

/// The labels that identify the build.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

// === impl ProcessMetrics ===

impl ProcessMetrics {
    pub(crate) fn new(add: &mut Spellings<'_>) -> Self {
        let build: Family<BuildLabels, Gauge> = add.metric(names::BUILD_INFO, Family::default());
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        Self {
            cpu: add.metric(names::PROCESS_CPU, Counter::default()),
            resident: add.metric(names::PROCESS_RESIDENT, Gauge::default()),
            virtual_memory: add.metric(names::PROCESS_VIRTUAL, Gauge::default()),
            open_fds: add.metric(names::PROCESS_OPEN_FDS, Gauge::default()),
            max_fds: add.metric(names::PROCESS_MAX_FDS, Gauge::default()),
            threads: add.metric(names::PROCESS_THREADS, Gauge::default()),
            start: add.metric(names::PROCESS_START, Gauge::default()),
        }
    }

    /// Sets the resources that the process uses now.
    pub fn set(&self, usage: &ProcessUsage) {
        // The system has counted it, so there is nothing to add.
        self.cpu.inner().store(usage.cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.resident.set(whole(usage.resident_bytes));
        self.virtual_memory.set(whole(usage.virtual_bytes));
        self.open_fds.set(whole(usage.open_fds));
        self.max_fds.set(usage.max_fds.map_or(i64::MAX, whole));
        self.threads.set(whole(usage.threads));
        let start = usage.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.start.set(start.as_secs_f64());
    }
}
