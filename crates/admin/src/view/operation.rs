//! The JSON of what operators ask for, and of how far it has come. Times are microseconds since 1970,
//! whole numbers, so that the time of a step names it.

use std::time::{SystemTime, UNIX_EPOCH};

use playhouse_cluster::{Change as Changed, DeploymentStatus, Desired, OperationId, Phase as At};
use serde::{Deserialize, Serialize};

use super::{Replica, ReplicaState};

/// What shall run, what does, and what is being done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// What shall run.
    pub desired: Shape,
    /// What does, by id.
    pub actual: Vec<Actual>,
    /// What shall have no ranks.
    pub drained: Drained,
    /// The operation that is under way, or `null`.
    pub operation: Option<Operation>,
    /// Whether what was asked for survives a restart of the head.
    pub durable: bool,
}

/// How many replicas, and how each is divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Copies of the model.
    pub data_parallel: u32,
    /// Ranks of each stage.
    pub tensor_parallel: u32,
    /// Stages.
    pub pipeline_parallel: u32,
    /// Layers of each stage; `null` for even shares.
    pub pipeline_partition: Option<Vec<u32>>,
}

/// A replica as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actual {
    /// Which one.
    pub id: u32,
    /// What it is doing.
    pub state: ReplicaState,
    /// Ranks of each stage.
    pub tensor_parallel: usize,
    /// Layers of each stage.
    pub stage_layers: Vec<usize>,
}

/// What shall have no ranks until somebody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// Ids of replicas.
    pub replicas: Vec<u32>,
    /// Names of nodes that are turned away.
    pub removed: Vec<String>,
}

/// Changes what shall run; what is not given stays as it is. Signed, so that a negative number is
/// refused by the name of its field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentPatch {
    /// Copies of the model: 0 to [`PARALLEL_MAX`](crate::PARALLEL_MAX).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_parallel: Option<i64>,
    /// Ranks of each stage: 1 to [`PARALLEL_MAX`](crate::PARALLEL_MAX).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_parallel: Option<i64>,
    /// Stages: 1 to [`PARALLEL_MAX`](crate::PARALLEL_MAX). Even shares, unless a partition is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_parallel: Option<i64>,
    /// Layers of each stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_partition: Option<Vec<i64>>,
    /// Even if nothing is left to serve meanwhile or afterwards.
    pub force: bool,
}

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In order, for a person.
    pub steps: Vec<String>,
    /// Why there are no steps, for a person; `null` if there are some.
    pub nothing_to_do: Option<String>,
}

/// Every operation that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// The newest first, each with its last step only.
    pub operations: Vec<Operation>,
}

/// A change, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Names it.
    pub id: u64,
    /// The `Idempotency-Key` it was asked for with, or `null`.
    pub key: Option<String>,
    /// What is changed.
    pub change: Change,
    /// How far it has come.
    pub phase: Phase,
    /// Why it failed, or `null`.
    pub reason: Option<String>,
    /// What has happened so far; the oldest are dropped when they are too many.
    pub steps: Vec<Step>,
    /// When it was accepted.
    pub started_unix_us: u64,
    /// When it ended, or `null`.
    pub ended_unix_us: Option<u64>,
}

/// Something an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When. Grows from step to step; the id of its event.
    pub at_unix_us: u64,
    /// In which phase.
    pub phase: Phase,
    /// What, for a person.
    pub text: String,
}

/// A change of what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// What shall run; what is `null` stays as it is.
    Deployment {
        /// Copies of the model.
        data_parallel: Option<u32>,
        /// Ranks of each stage.
        tensor_parallel: Option<u32>,
        /// Stages.
        pipeline_parallel: Option<u32>,
        /// Layers of each stage; `null` for even shares.
        pipeline_partition: Option<Vec<u32>>,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A replica gives its requests away and rests.
    DrainReplica {
        /// Which one.
        replica: u32,
        /// How long its requests may go on there.
        deadline_seconds: u64,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A replica starts anew.
    RestartReplica {
        /// Which one.
        replica: u32,
    },
    /// A replica is drained and leaves.
    RemoveReplica {
        /// Which one.
        replica: u32,
        /// How long its requests may go on there.
        deadline_seconds: u64,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A node loses its ranks and gets no more.
    DrainNode {
        /// Its name.
        node: String,
        /// How long requests may go on there.
        deadline_seconds: u64,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A node may have ranks again.
    UndrainNode {
        /// Its name.
        node: String,
    },
    /// A node is forgotten.
    RemoveNode {
        /// Its name.
        node: String,
    },
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being worked out.
    Plan,
    /// New replicas or ranks start.
    Prepare,
    /// Requests go to the new ones.
    Switch,
    /// Old ones are drained and end.
    Retire,
    /// What was asked for runs.
    Done,
    /// It could not be done.
    Failed,
    /// An operator ended it.
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

/// As JSON has it.
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
    /// Nothing more will happen.
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
