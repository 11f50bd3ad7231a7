//! The step stream: plans down, outcomes up. One per shard.

use playhouse_types::{Epoch, StepId, StepOutcome, StepPlan};

use crate::Request;
use crate::message::message;

/// The planner to a shard.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum StepCommand {
    /// Opens the stream; no plan yet.
    Attach {
        /// The epoch of all plans on this stream.
        epoch: Epoch,
    },
    /// Execute this.
    Plan(StepPlan),
}

/// A shard to the planner.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum StepEvent {
    /// What came of a plan; from the rank that samples.
    Outcome(StepOutcome),
    /// A plan was executed; from every other rank.
    Done {
        /// As in the plan.
        epoch: Epoch,
        /// As in the plan.
        step: StepId,
    },
    /// The engine failed; the last event. The text says why, for a person.
    Exited {
        /// Its epoch.
        epoch: Epoch,
        /// Why.
        reason: String,
        /// It died of what it was computing, as far as it can tell.
        of_step: bool,
    },
}

message!(StepCommand, StepCommand);
message!(StepEvent, StepEvent);

impl Request for StepCommand {
    type Reply = StepEvent;
}
