//! What operators may change while the cluster serves, and how far a change has come.

use std::fmt;
use std::time::{Duration, SystemTime};

use playhouse_layout::Widths;
use playhouse_types::{ParallelSpec, ReplicaId};
use serde::{Deserialize, Deserializer, Serialize};

/// What shall run: nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Copies of the model.
    pub replicas: u32,
    /// How each of them is divided: the layout of one replica, see [`replica_layout`].
    #[serde(alias = "split", deserialize_with = "written_layout")]
    pub layout: ParallelSpec,
}

/// A change of what runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Of the deployment; what is not given stays as it is.
    Deployment {
        /// Copies of the model.
        replicas: Option<u32>,
        /// How each of them is divided. Rolled through one replica after the other.
        #[serde(alias = "split", default, deserialize_with = "written_layouts")]
        layout: Option<ParallelSpec>,
        /// Even if nothing is left to serve meanwhile or afterwards.
        force: bool,
    },
    /// A replica takes no more requests, finishes what it has, or gives it to others after
    /// `deadline`, and lets go of its devices. It stays, drained.
    DrainReplica {
        /// Which one.
        replica: ReplicaId,
        /// How long its requests may go on there.
        deadline: Duration,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A replica starts anew, in new processes: a drained or failed one, too.
    RestartReplica {
        /// Which one.
        replica: ReplicaId,
    },
    /// A replica is drained and leaves for good: there is one less.
    RemoveReplica {
        /// Which one.
        replica: ReplicaId,
        /// How long its requests may go on there.
        deadline: Duration,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A node gets no more ranks; those that are there move to free devices of others, or are
    /// drained.
    DrainNode {
        /// Its name.
        node: String,
        /// How long requests may go on there.
        deadline: Duration,
        /// Even if nothing is left to serve.
        force: bool,
    },
    /// A node that was drained may have ranks again.
    UndrainNode {
        /// Its name.
        node: String,
    },
    /// A node without ranks is forgotten, and disconnected if it is there.
    RemoveNode {
        /// Its name.
        node: String,
    },
}

/// Names an operation, counted from 1 over all restarts of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId(pub u64);

/// A change, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Names it.
    pub id: OperationId,
    /// What its caller calls it: asking for it again under this name gives this operation.
    pub key: Option<String>,
    /// What is changed.
    pub change: Change,
    /// How far it has come.
    pub phase: Phase,
    /// What has happened so far, for a person; at most [`Operation::STEPS_MAX`], the oldest go first.
    pub steps: Vec<OperationStep>,
    /// When it was accepted.
    pub started: SystemTime,
    /// When it ended.
    pub ended: Option<SystemTime>,
}

/// Something an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStep {
    /// When.
    pub at: SystemTime,
    /// In which phase.
    pub phase: Phase,
    /// What, for a person.
    pub text: String,
}

/// How far a change has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It could not be done, and was undone as far as possible.
    Failed {
        /// Why.
        reason: String,
    },
    /// An operator ended it, and it was undone as far as possible.
    Aborted,
}

/// What came of asking for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was only to be worked out: the steps it would take.
    Planned(Vec<String>),
    /// It is under way, or was asked for under the same key before.
    Accepted(Box<Operation>),
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// One operation at a time.
    #[error("{running} is under way: wait for its end, or abort it")]
    Busy {
        /// The one that is under way.
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
    /// A key names one change.
    #[error("the key {key:?} names {operation}, which is another change")]
    KeyTaken {
        /// The key.
        key: String,
        /// What it was given to.
        operation: OperationId,
    },
    /// There are too few devices for it.
    #[error("{0}")]
    Devices(String),
    /// The model cannot be divided like that, or a number makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nothing would be left that serves.
    #[error("{0}: say `force` if that is meant")]
    NeedsForce(String),
    /// The head is going down.
    #[error("the head is shutting down")]
    Draining,
    /// The change cannot be written down, so it is not made.
    #[error("the change cannot be written down: {0}")]
    Journal(String),
}

/// A layout as any version of the journal has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenLayout {
    Whole(ParallelSpec),
    /// Version 1, in which a replica was stages and tensor ranks.
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

/// The layout of one replica of a deployment: what is of all of them, or of how they compute, is left out.
#[must_use]
pub fn replica_layout(parallel: &ParallelSpec) -> ParallelSpec {
    ParallelSpec { data: 1, micro_batch_max: None, ..parallel.clone() }
}

/// Ranks of a replica.
pub(crate) fn ranks_of(layout: &ParallelSpec) -> usize {
    usize::try_from(Widths::of(layout).replica_ranks()).unwrap_or(usize::MAX)
}

/// A layout in two words, for a person.
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
    /// Steps kept of each operation.
    pub const STEPS_MAX: usize = 256;
}

// === impl Phase ===

impl Phase {
    /// Nothing more will happen.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. } | Self::Aborted)
    }
}
