//! What a head counts of its cluster: nodes, devices, replicas, operations and certificates.
//!
//! How many there are is found when somebody asks; see [`Metrics::on_scrape`](crate::Metrics::on_scrape).

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Spellings;
use crate::names;

/// The metrics of a cluster. Recorded by the command line.
#[derive(Debug)]
pub struct FleetMetrics {
    nodes: Family<NodeLabels, Gauge>,
    devices: Family<DeviceLabels, Gauge>,
    replicas: Family<ReplicaLabels, Gauge>,
    certificates: Family<CertificateLabels, Gauge<f64, AtomicU64>>,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum NodeCondition {
    /// It is connected and may have ranks.
    connected,
    /// It is connected, and an operator has drained it.
    drained,
    /// It is not connected.
    lost,
}

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum DeviceCondition {
    /// It has no rank.
    free,
    /// It has a rank.
    used,
    /// Its node is drained.
    drained,
    /// Its node is not connected.
    lost,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum ReplicaCondition {
    /// Its ranks start for the first time.
    starting,
    /// It takes requests.
    serving,
    /// It has requests, and nothing comes of them.
    stalled,
    /// Its ranks start anew.
    restarting,
    /// It has been given up.
    failed,
    /// It is being drained.
    draining,
    /// It was drained.
    drained,
    /// It has ended.
    stopped,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum CertificateKind {
    /// The HTTP listeners show it to clients.
    tls,
    /// The head shows it to nodes and ranks.
    head,
    /// A connected node has it: of all of them, the one that ends first.
    node,
}

/// A counter of ended operations for each outcome. Clones count together.
#[derive(Clone, Debug)]
pub struct OperationCounters(Family<OperationLabels, Counter>);

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum OperationOutcome {
    /// What was asked for runs.
    done,
    /// It could not be done.
    failed,
    /// An operator ended it.
    aborted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    state: NodeCondition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    state: DeviceCondition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplicaLabels {
    state: ReplicaCondition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    kind: CertificateKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    outcome: OperationOutcome,
}

// === impl FleetMetrics ===

impl FleetMetrics {
    pub(crate) fn new(add: &mut Spellings<'_>, operations: &OperationCounters) -> Self {
        add.metric(names::OPERATIONS, operations.0.clone());
        let metrics = Self {
            nodes: add.metric(names::NODES, Family::default()),
            devices: add.metric(names::DEVICES, Family::default()),
            replicas: add.metric(names::REPLICAS, Family::default()),
            certificates: add.metric(names::CERTIFICATE_NOT_AFTER, Family::default()),
        };
        metrics.nodes(&[]);
        metrics.devices(&[]);
        metrics.replicas(&[]);
        metrics
    }

    /// Sets how many nodes there are in each condition.
    pub fn nodes(&self, nodes: &[NodeCondition]) {
        for state in NodeCondition::ALL {
            let count = nodes.iter().filter(|one| **one == state).count();
            self.nodes.get_or_create(&NodeLabels { state }).set(whole(count));
        }
    }

    /// Sets how many devices there are in each condition.
    pub fn devices(&self, devices: &[DeviceCondition]) {
        for state in DeviceCondition::ALL {
            let count = devices.iter().filter(|one| **one == state).count();
            self.devices.get_or_create(&DeviceLabels { state }).set(whole(count));
        }
    }

    /// Sets how many replicas there are in each condition.
    pub fn replicas(&self, replicas: &[ReplicaCondition]) {
        for state in ReplicaCondition::ALL {
            let count = replicas.iter().filter(|one| **one == state).count();
            self.replicas.get_or_create(&ReplicaLabels { state }).set(whole(count));
        }
    }

    /// Sets the end of the certificate of a kind; without one there is no series.
    pub fn certificate(&self, kind: CertificateKind, not_after: Option<SystemTime>) {
        let labels = CertificateLabels { kind };
        match not_after.map(|end| end.duration_since(UNIX_EPOCH).unwrap_or_default()) {
            Some(end) => drop(self.certificates.get_or_create(&labels).set(end.as_secs_f64())),
            None => drop(self.certificates.remove(&labels)),
        }
    }
}

// === impl OperationCounters ===

impl OperationCounters {
    /// Counts an operation that has ended.
    pub fn inc(&self, outcome: OperationOutcome) {
        self.0.get_or_create(&OperationLabels { outcome }).inc();
    }
}

impl Default for OperationCounters {
    /// All of them at zero: a rate over a series that appears with its first event misses that event.
    fn default() -> Self {
        let family = Family::<OperationLabels, Counter>::default();
        let all = [OperationOutcome::done, OperationOutcome::failed, OperationOutcome::aborted];
        for outcome in all {
            drop(family.get_or_create(&OperationLabels { outcome }));
        }
        Self(family)
    }
}

// === impl NodeCondition ===

impl NodeCondition {
    const ALL: [Self; 3] = [Self::connected, Self::drained, Self::lost];
}

// === impl DeviceCondition ===

impl DeviceCondition {
    const ALL: [Self; 4] = [Self::free, Self::used, Self::drained, Self::lost];
}

// === impl ReplicaCondition ===

impl ReplicaCondition {
    const ALL: [Self; 8] = [
        Self::starting,
        Self::serving,
        Self::stalled,
        Self::restarting,
        Self::failed,
        Self::draining,
        Self::drained,
        Self::stopped,
    ];
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
