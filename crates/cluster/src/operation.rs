//! Operations: what operators may change while the cluster serves, and how far a change has come.

use std::fmt;
use std::time::{Duration, SystemTime};

use playhouse_layout::Widths;
use playhouse_types::{ParallelSpec, ReplicaId};
use serde::{Deserialize, Deserializer, Serialize};

/// The deployment that is wanted: nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Number of copies of the model.
    pub replicas: u32,
    /// The parallel layout of each replica, see [`replica_layout`].
    #[serde(alias = "split", deserialize_with = "written_layout")]
    pub layout: ParallelSpec,
}

/// A change of what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Changes the deployment. Fields that are not given stay as they are.
    Deployment {
        /// Number of copies of the model.
        replicas: Option<u32>,
        /// The parallel layout of each replica. Rolled out to one replica after the other.
        #[serde(alias = "split", default, deserialize_with = "written_layouts")]
        layout: Option<ParallelSpec>,
        /// Whether to go on even if no replica is left to serve meanwhile or afterwards.
        force: bool,
    },
    /// Drains a replica: it takes no more requests, finishes the requests that it has, or gives them to
    /// others after `deadline`, and frees its devices. The drained replica stays in the list.
    DrainReplica {
        /// The replica to drain.
        replica: ReplicaId,
        /// How long the replica's requests may go on there.
        deadline: Duration,
        /// Whether to go on even if no replica is left to serve.
        force: bool,
    },
    /// Restarts a replica in new processes, also a drained or failed one.
    RestartReplica {
        /// The replica to restart.
        replica: ReplicaId,
    },
    /// Drains a replica and removes it for good: the deployment has one less.
    RemoveReplica {
        /// The replica to remove.
        replica: ReplicaId,
        /// How long the replica's requests may go on there.
        deadline: Duration,
        /// Whether to go on even if no replica is left to serve.
        force: bool,
    },
    /// Drains a node: it gets no more ranks; the ranks that are there move to free devices of other
    /// nodes, or are drained.
    DrainNode {
        /// The name of the node.
        node: String,
        /// How long requests may go on there.
        deadline: Duration,
        /// Whether to go on even if no replica is left to serve.
        force: bool,
    },
    /// Lets a drained node have ranks again.
    UndrainNode {
        /// The name of the node.
        node: String,
    },
    /// Forgets a node without ranks, and disconnects it if it is connected.
    RemoveNode {
        /// The name of the node.
        node: String,
    },
}

/// The id of an operation, counted from 1 over all restarts of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId(pub u64);

/// A change that was accepted, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The id of the operation.
    pub id: OperationId,
    /// The caller's key: asking for the same change again under this key returns this operation.
    pub key: Option<String>,
    /// The change that the operation makes.
    pub change: Change,
    /// How far the operation has come.
    pub phase: Phase,
    /// What the operation has done so far, for a person; at most [`Operation::STEPS_MAX`] steps, the
    /// oldest go first.
    pub steps: Vec<OperationStep>,
    /// When the operation was accepted.
    pub started: SystemTime,
    /// When the operation ended.
    pub ended: Option<SystemTime>,
}

/// A step that an operation took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStep {
    /// When the operation took the step.
    pub at: SystemTime,
    /// The phase of the operation at that time.
    pub phase: Phase,
    /// A description for a person.
    pub text: String,
}

/// The phases of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The change is being worked out.
    Plan,
    /// New replicas or ranks start.
    Prepare,
    /// Requests go to the new replicas.
    Switch,
    /// Old replicas are drained and end.
    Retire,
    /// The change is complete.
    Done,
    /// The change could not be made, and was undone as far as possible.
    Failed {
        /// The reason of the failure.
        reason: String,
    },
    /// An operator ended the operation, and the change was undone as far as possible.
    Aborted,
}

/// The answer to a request for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The change was only to be worked out: the steps that it would take.
    Planned(Vec<String>),
    /// The operation is under way, or was asked for under the same key before.
    Accepted(Box<Operation>),
}

/// The reason why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another operation is under way; only one runs at a time.
    #[error("{running} is under way: wait for its end, or abort it")]
    Busy {
        /// The operation that is under way.
        running: OperationId,
    },
    /// No replica has this id.
    #[error("there is no {0}")]
    NoReplica(ReplicaId),
    /// No node has this name.
    #[error("there is no node {0}")]
    NoNode(String),
    /// No operation has this id.
    #[error("there is no {0}")]
    NoOperation(OperationId),
    /// The operation has ended already.
    #[error("{0} has ended")]
    Ended(OperationId),
    /// The key belongs to another change: a key names one change only.
    #[error("the key {key:?} names {operation}, which is another change")]
    KeyTaken {
        /// The key.
        key: String,
        /// The operation that has the key.
        operation: OperationId,
    },
    /// There are too few devices for the change.
    #[error("{0}")]
    Devices(String),
    /// The model cannot be divided by that layout, or a number makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No replica would be left to serve.
    #[error("{0}: say `force` if that is meant")]
    NeedsForce(String),
    /// The head has not started its first replicas yet.
    #[error("the head is starting: ask again when it has launched its replicas")]
    Starting,
    /// The head is going down.
    #[error("the head is shutting down")]
    Draining,
    /// The change cannot be written to the journal, so it is not made.
    #[error("the change cannot be written down: {0}")]
    Journal(String),
}

/// A layout in the form of any version of the journal.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenLayout {
    Whole(ParallelSpec),
    /// The form of version 1, in which a replica was stages and tensor ranks.
    Split {
        tensor: u32,
        pipeline: u32,
        partition: Option<Vec<u32>>,
    },
}

impl From<WrittenLayout> for ParallelSpec {
    fn from(written: WrittenLayout) -> Self {
        match written {
            WrittenLayout::Whole(layout) => layout,
            WrittenLayout::Split { tensor, pipeline, partition: pipeline_partition } => {
                Self { tensor, pipeline, pipeline_partition, ..Self::default() }
            }
        }
    }
}

fn written_layout<'de, D: Deserializer<'de>>(from: D) -> Result<ParallelSpec, D::Error> {
    WrittenLayout::deserialize(from).map(Into::into)
}

fn written_layouts<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ParallelSpec>, D::Error> {
    Ok(Option::<WrittenLayout>::deserialize(from)?.map(Into::into))
}

/// Returns the layout of one replica of a deployment: fields that concern all replicas together, or only
/// how they compute, are left out.
#[must_use]
pub fn replica_layout(parallel: &ParallelSpec) -> ParallelSpec {
    ParallelSpec { data: 1, micro_batch_max: None, ..parallel.clone() }
}

/// Returns the number of ranks of a replica.
pub(crate) fn ranks_of(layout: &ParallelSpec) -> usize {
    usize::try_from(Widths::of(layout).replica_ranks()).unwrap_or(usize::MAX)
}

/// Describes a layout in two words, for a person.
pub(crate) fn layout_text(layout: &ParallelSpec) -> String {
    format!("tp {} pp {}", layout.tensor, layout.pipeline)
}

// === impl OperationId ===

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation-{}", self.0)
    }
}

// === impl Operation ===

impl Operation {
    /// The number of steps that are kept of each operation.
    pub const STEPS_MAX: usize = 256;
}

// === impl Phase ===

impl Phase {
    /// Returns whether the operation has ended, so that nothing more will happen.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. } | Self::Aborted)
    }
}
