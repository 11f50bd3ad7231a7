//! The step stream of one shard: plans to the shard, outcomes from it.

use playhouse_types::{Epoch, StepId, StepOutcome, StepPlan};

use crate::Request;
use crate::message::message;

/// A command of the planner to a shard.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum StepCommand {
    /// Opens the stream, without a plan yet.
    Attach {
        /// The epoch of all plans on this stream.
        epoch: Epoch,
    },
    /// Executes a plan.
    Plan(StepPlan),
}

/// A message of a shard to the planner.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum StepEvent {
    /// The outcome of a plan, from the rank that samples.
    Outcome(StepOutcome),
    /// A plan was executed; from every other rank.
    Done {
        /// The epoch of the plan.
        epoch: Epoch,
        /// The id of the step.
        step: StepId,
    },
    /// The engine failed; the last event. The text says why, for a person.
    Exited {
        /// The epoch of the engine.
        epoch: Epoch,
        /// The reason of the failure.
        reason: String,
        /// Whether the engine died of its computation, as far as it can tell.
        of_step: bool,
    },
}

message!(StepCommand, StepCommand);
message!(StepEvent, StepEvent);

impl Request for StepCommand {
    type Reply = StepEvent;
}
