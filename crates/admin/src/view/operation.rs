//! The JSON of operations and their progress. Times are microseconds since 1970, whole numbers, so that
//! the time of a step identifies it.

use std::time::{SystemTime, UNIX_EPOCH};

use playhouse_cluster::{Change as Changed, DeploymentStatus, Desired, OperationId, Phase as At};
use serde::{Deserialize, Serialize};

use super::{Replica, ReplicaState};

/// The desired and the actual deployment, with the operation that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The desired layout.
    pub desired: Shape,
    /// The replicas as they are, in the order of their ids.
    pub actual: Vec<Actual>,
    /// The nodes and replicas that get no ranks.
    pub drained: Drained,
    /// The operation that is under way, or `null`.
    pub operation: Option<Operation>,
    /// Whether the desired deployment survives a restart of the head.
    pub durable: bool,
}

/// The number of replicas, and the split of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The number of replicas: copies of the model.
    pub data_parallel: u32,
    /// The number of ranks of each stage.
    pub tensor_parallel: u32,
    /// The number of stages of each replica.
    pub pipeline_parallel: u32,
    /// The number of layers of each stage; `null` for even shares.
    pub pipeline_partition: Option<Vec<u32>>,
}

/// A replica as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actual {
    /// The id of the replica.
    pub id: u32,
    /// The state of the replica.
    pub state: ReplicaState,
    /// The number of ranks of each stage.
    pub tensor_parallel: usize,
    /// The number of layers of each stage.
    pub stage_layers: Vec<usize>,
}

/// The nodes and replicas that get no ranks until they are undrained or restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The names of drained nodes.
    pub nodes: Vec<String>,
    /// The ids of drained replicas.
    pub replicas: Vec<u32>,
    /// The names of removed nodes, which are refused.
    pub removed: Vec<String>,
}

/// A change of the desired layout; absent fields stay as they are. Signed, so that a negative number is
/// refused by the name of its field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentPatch {
    /// The number of replicas: 0 to [`PARALLEL_MAX`](crate::PARALLEL_MAX).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_parallel: Option<i64>,
    /// The number of ranks of each stage: 1 to [`PARALLEL_MAX`](crate::PARALLEL_MAX).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_parallel: Option<i64>,
    /// The number of stages: 1 to [`PARALLEL_MAX`](crate::PARALLEL_MAX). Layers are split evenly, unless
    /// a partition is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_parallel: Option<i64>,
    /// The number of layers of each stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_partition: Option<Vec<i64>>,
    /// Whether to make the change even if no replica is left to serve meanwhile or afterwards.
    pub force: bool,
}

/// The steps that a change would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps in order, as text.
    pub steps: Vec<String>,
    /// The reason why there are no steps, as text; `null` if there are some.
    pub nothing_to_do: Option<String>,
}

/// The list of all known operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationList {
    /// The operations, the newest first, each with its last step only.
    pub operations: Vec<Operation>,
}

/// A change and its progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The id of the operation.
    pub id: u64,
    /// The `Idempotency-Key` of its request, or `null`.
    pub key: Option<String>,
    /// The change that the operation makes.
    pub change: Change,
    /// The progress of the operation.
    pub phase: Phase,
    /// The reason why the operation failed, or `null`.
    pub reason: Option<String>,
    /// The steps so far; the oldest are dropped when there are too many.
    pub steps: Vec<Step>,
    /// When the operation was accepted.
    pub started_unix_us: u64,
    /// When the operation ended, or `null`.
    pub ended_unix_us: Option<u64>,
}

/// A step of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The time of the step, which increases from step to step; the id of its event.
    pub at_unix_us: u64,
    /// The phase of the step.
    pub phase: Phase,
    /// A description of the step, as text.
    pub text: String,
}

/// A change of the deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// A new layout; fields that are `null` stay as they are.
    Deployment {
        /// The number of replicas: copies of the model.
        data_parallel: Option<u32>,
        /// The number of ranks of each stage.
        tensor_parallel: Option<u32>,
        /// The number of stages.
        pipeline_parallel: Option<u32>,
        /// The number of layers of each stage; `null` for even shares.
        pipeline_partition: Option<Vec<u32>>,
        /// Whether to make the change even if no replica is left to serve.
        force: bool,
    },
    /// A drain of a replica, which gives its requests and its devices up.
    DrainReplica {
        /// The id of the replica.
        replica: u32,
        /// How long its requests may go on there.
        deadline_seconds: u64,
        /// Whether to drain even if no replica is left to serve.
        force: bool,
    },
    /// A restart of a replica.
    RestartReplica {
        /// The id of the replica.
        replica: u32,
    },
    /// A drain and removal of a replica.
    RemoveReplica {
        /// The id of the replica.
        replica: u32,
        /// How long its requests may go on there.
        deadline_seconds: u64,
        /// Whether to remove even if no replica is left to serve.
        force: bool,
    },
    /// A drain of a node, which loses its ranks and gets no more.
    DrainNode {
        /// The name of the node.
        node: String,
        /// How long requests may go on there.
        deadline_seconds: u64,
        /// Whether to drain even if no replica is left to serve.
        force: bool,
    },
    /// The end of a node's drain: the node may have ranks again.
    UndrainNode {
        /// The name of the node.
        node: String,
    },
    /// A removal of a node, which is refused from then on.
    RemoveNode {
        /// The name of the node.
        node: String,
    },
}

/// The progress of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The moves of the change are being planned.
    Plan,
    /// New replicas or ranks are being started.
    Prepare,
    /// Requests are being moved to the new replicas.
    Switch,
    /// Old replicas are being drained and ended.
    Retire,
    /// The change was made.
    Done,
    /// The change could not be made.
    Failed,
    /// An operator aborted the change.
    Aborted,
}

// === impl Deployment ===

impl Deployment {
    pub(crate) fn new(
        status: DeploymentStatus,
        operation: Option<Operation>,
        replicas: &[Replica],
    ) -> Self {
        let DeploymentStatus { desired, drained, durable, .. } = status;
        Self {
            desired: desired.into(),
            actual: replicas.iter().map(Actual::from).collect(),
            drained: Drained {
                nodes: drained.nodes.into_iter().collect(),
                replicas: drained.replicas.into_iter().map(|id| id.0).collect(),
                removed: drained.removed.into_iter().collect(),
            },
            operation,
            durable,
        }
    }
}

// === impl Shape ===

impl From<Desired> for Shape {
    fn from(desired: Desired) -> Self {
        Self {
            data_parallel: desired.replicas,
            tensor_parallel: desired.layout.tensor,
            pipeline_parallel: desired.layout.pipeline,
            pipeline_partition: desired.layout.pipeline_partition,
        }
    }
}

// === impl Actual ===

impl From<&Replica> for Actual {
    fn from(replica: &Replica) -> Self {
        Self {
            id: replica.id,
            state: replica.state,
            tensor_parallel: replica.stages.first().map_or(0, |stage| stage.shards.len()),
            stage_layers: replica.stages.iter().map(|stage| stage.layers.len()).collect(),
        }
    }
}

// === impl Operation ===

impl From<playhouse_cluster::Operation> for Operation {
    fn from(operation: playhouse_cluster::Operation) -> Self {
        let reason = match &operation.phase {
            At::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        let OperationId(id) = operation.id;
        Self {
            id,
            key: operation.key,
            change: operation.change.into(),
            phase: (&operation.phase).into(),
            reason,
            steps: operation.steps.iter().map(Step::from).collect(),
            started_unix_us: unix_us(operation.started),
            ended_unix_us: operation.ended.map(unix_us),
        }
    }
}

/// Returns a time in the form of the JSON: microseconds since 1970.
fn unix_us(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

// === impl Step ===

impl From<&playhouse_cluster::OperationStep> for Step {
    fn from(step: &playhouse_cluster::OperationStep) -> Self {
        let playhouse_cluster::OperationStep { at, phase, text } = step;
        Self { at_unix_us: unix_us(*at), phase: phase.into(), text: text.clone() }
    }
}

// === impl Phase ===

impl Phase {
    /// Returns whether the phase is the last one of an operation.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Aborted)
    }
}

impl From<&At> for Phase {
    fn from(phase: &At) -> Self {
        match phase {
            At::Plan => Self::Plan,
            At::Prepare => Self::Prepare,
            At::Switch => Self::Switch,
            At::Retire => Self::Retire,
            At::Done => Self::Done,
            At::Failed { .. } => Self::Failed,
            At::Aborted => Self::Aborted,
        }
    }
}

// === impl Change ===

impl From<Changed> for Change {
    fn from(change: Changed) -> Self {
        match change {
            Changed::Deployment { replicas, layout, force } => Self::Deployment {
                data_parallel: replicas,
                tensor_parallel: layout.as_ref().map(|layout| layout.tensor),
                pipeline_parallel: layout.as_ref().map(|layout| layout.pipeline),
                pipeline_partition: layout.and_then(|layout| layout.pipeline_partition),
                force,
            },
            Changed::DrainReplica { replica, deadline, force } => Self::DrainReplica {
                replica: replica.0,
                deadline_seconds: deadline.as_secs(),
                force,
            },
            Changed::RestartReplica { replica } => Self::RestartReplica { replica: replica.0 },
            Changed::RemoveReplica { replica, deadline, force } => Self::RemoveReplica {
                replica: replica.0,
                deadline_seconds: deadline.as_secs(),
                force,
            },
            Changed::DrainNode { node, deadline, force } => {
                Self::DrainNode { node, deadline_seconds: deadline.as_secs(), force }
            }
            Changed::UndrainNode { node } => Self::UndrainNode { node },
            Changed::RemoveNode { node } => Self::RemoveNode { node },
        }
    }
}
