//! Metrics that a head records of its cluster: nodes, devices, replicas, operations and certificates.
//!
//! The numbers of nodes, devices and replicas are looked up when a client asks for the metrics; see
//! [`Metrics::on_scrape`](crate::Metrics::on_scrape).

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::names;
use crate::spellings::Spellings;

/// The metrics of a cluster. Recorded by the command line.
#[derive(Debug)]
pub struct FleetMetrics {
    nodes: Family<NodeLabels, Gauge>,
    devices: Family<DeviceLabels, Gauge>,
    replicas: Family<ReplicaLabels, Gauge>,
    certificates: Family<CertificateLabels, Gauge<f64, AtomicU64>>,
}

/// The condition of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum NodeCondition {
    /// The node is connected and may have ranks.
    connected,
    /// The node is connected, and an operator has drained it.
    drained,
    /// The node is not connected.
    lost,
}

/// The condition of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum DeviceCondition {
    /// The device has no rank.
    free,
    /// The device has a rank.
    used,
    /// The node of the device is drained.
    drained,
    /// The node of the device is not connected.
    lost,
}

/// The condition of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum ReplicaCondition {
    /// The ranks of the replica start for the first time.
    starting,
    /// The replica takes requests.
    serving,
    /// The replica has requests and makes no progress.
    stalled,
    /// The ranks of the replica restart.
    restarting,
    /// The replica has been given up.
    failed,
    /// The replica is being drained.
    draining,
    /// The replica was drained.
    drained,
    /// The replica has ended.
    stopped,
}

/// The purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum CertificateKind {
    /// The certificate that the HTTP listeners present to clients.
    tls,
    /// The certificate that the head presents to nodes and ranks.
    head,
    /// The certificate of a connected node: of all of them, the one that expires first.
    node,
}

/// A counter of ended operations for each outcome. Clones count together.
#[derive(Clone, Debug)]
pub struct OperationCounters(Family<OperationLabels, Counter>);

/// The outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum OperationOutcome {
    /// The operation succeeded: its result runs.
    done,
    /// The operation could not be done.
    failed,
    /// An operator ended the operation.
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

    /// Sets the number of nodes in each condition.
    pub fn nodes(&self, nodes: &[NodeCondition]) {
        for state in NodeCondition::ALL {
            let count = nodes.iter().filter(|one| **one == state).count();
            self.nodes.get_or_create(&NodeLabels { state }).set(whole(count));
        }
    }

    /// Sets the number of devices in each condition.
    pub fn devices(&self, devices: &[DeviceCondition]) {
        for state in DeviceCondition::ALL {
            let count = devices.iter().filter(|one| **one == state).count();
            self.devices.get_or_create(&DeviceLabels { state }).set(whole(count));
        }
    }

    /// Sets the number of replicas in each condition.
    pub fn replicas(&self, replicas: &[ReplicaCondition]) {
        for state in ReplicaCondition::ALL {
            let count = replicas.iter().filter(|one| **one == state).count();
            self.replicas.get_or_create(&ReplicaLabels { state }).set(whole(count));
        }
    }

    /// Sets the expiry of the certificate of a kind; without a certificate there is no series.
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
    /// Returns all counters at zero, because a rate over a series that appears with its first event misses
    /// that event.
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
