//! Ranks as the actors see them: started by other code, and reporting.

use std::fmt;
use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use playhouse_engine::{EngineEvent, StepPort, SubmitError};
use playhouse_layout::{Coordinates, RankId, RankMap};
use playhouse_types::{Epoch, ReplicaId, StepId, StepOutcome, StepPlan};
use tokio::sync::mpsc;

use crate::status::Whereabouts;

/// Starts a rank for an epoch. Called again after each loss of its replica.
pub type RankStarter =
    Arc<dyn Fn(Epoch, RankId, RankSink) -> io::Result<StartedRank> + Send + Sync>;

/// The sink of a rank's reports; called on the thread on which the rank runs.
pub type RankSink = Arc<dyn Fn(RankEvent) + Send + Sync>;

/// A report of a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum RankEvent {
    /// No devices are free for the ranks of the replica; the text says how many there are, and which nodes
    /// had them. Reported again when the text changes.
    Waits(String),
    /// The rank has a process and a device.
    Placed(Whereabouts),
    /// How much of its weights the rank has read.
    Loading {
        /// Bytes read.
        bytes: u64,
        /// Bytes to read.
        of: u64,
    },
    /// The number of blocks that the rank's KV cache will have; before [`Self::Ready`], if at all.
    Cache {
        /// The number of blocks.
        kv_blocks: u32,
    },
    /// The rank takes plans.
    Ready,
    /// The rank has run a step, and has the outcome.
    Step(StepOutcome),
    /// The rank has run a step whose outcome another rank has.
    Followed(StepId),
    /// The rank is lost. The last event.
    Lost(Loss),
}

/// The loss of a rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Loss {
    /// The reason, for a person.
    pub reason: String,
    /// The cause of the loss.
    pub cause: LossCause,
}

/// The cause of a rank's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// The step that the rank was computing, as far as can be told.
    Step,
    /// A step that did not end and is overdue.
    Hang,
    /// An event outside of the rank: a signal, a cut, another rank.
    Outside,
    /// No device was free for the rank, or no process could be started there.
    NoDevice,
    /// The drain of its replica.
    Drain,
    /// No failure: the replica is several times slower than others, and its requests go to those.
    Slow,
}

/// A rank that was started. Dropping the port ends the rank.
pub struct StartedRank {
    /// The port to which the rank's plans go.
    pub port: RankPort,
    /// The handle by which the rank is ended from outside.
    pub handle: Arc<dyn RankHandle>,
    /// Completes when nothing of the rank runs any more.
    pub ended: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

/// Control of a rank from outside, apart from its plans. Never blocks.
pub trait RankHandle: fmt::Debug + Send + Sync {
    /// Ends the rank now, as far as it can be ended, because one of its steps is overdue. Called before
    /// its port is dropped.
    fn abort(&self);

    /// Gives up what is kept for the rank's next start, such as its process and its device, because the
    /// replica will not start again.
    fn vacate(&self);

    /// Waits until what [`vacate`](Self::vacate) gives up is gone (**A14**). Nothing is kept by default.
    fn vacated(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(ready(()))
    }
}

/// The port to which the plans of a rank go.
#[derive(Debug)]
pub enum RankPort {
    /// An engine of this process.
    Engine(StepPort),
    /// A task that passes plans on, with a queue of
    /// [`STEPS_QUEUED_MAX`](playhouse_engine::STEPS_QUEUED_MAX) plans.
    Remote(mpsc::Sender<StepPlan>),
}

/// Returns the name of a process of this rank: `start` distinguishes the process from earlier ones.
pub(crate) fn process_name(rank: RankId, start: u64) -> String {
    format!("r{}-{}-{start:x}", rank.replica.0, rank.index)
}

/// Returns the rank whose process has this name.
pub(crate) fn rank_of_process(name: &str) -> Option<RankId> {
    let mut parts = name.split('-');
    let replica = ReplicaId(parts.next()?.strip_prefix('r')?.parse().ok()?);
    Some(RankId { replica, index: parts.next()?.parse().ok()? })
}

/// Describes the position of a rank in its replica, for a person.
pub(crate) fn place(map: &RankMap, index: u32) -> String {
    let Coordinates { stage, stage_rank, .. } = map.coordinates(index);
    format!("stage {stage} shard {stage_rank}")
}

// === impl RankEvent ===

impl From<EngineEvent> for RankEvent {
    fn from(event: EngineEvent) -> Self {
        match event {
            EngineEvent::Ready { .. } => Self::Ready,
            EngineEvent::Step(outcome) => Self::Step(outcome),
            EngineEvent::Followed { step, .. } => Self::Followed(step),
            EngineEvent::Exited { reason, of_step, .. } => {
                let cause = if of_step { LossCause::Step } else { LossCause::Outside };
                Self::Lost(Loss { reason, cause })
            }
        }
    }
}

// === impl Loss ===

impl Loss {
    /// Returns a loss whose cause is outside of the rank.
    pub(crate) fn outside(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: LossCause::Outside }
    }

    /// Returns a loss for want of a device or a process.
    pub(crate) fn no_device(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: LossCause::NoDevice }
    }
}

// === impl LossCause ===

impl LossCause {
    /// Returns whether the requests in the step may be to blame.
    pub(crate) fn is_of_step(self) -> bool {
        matches!(self, Self::Step | Self::Hang)
    }
}

// === impl RankPort ===

impl RankPort {
    /// Queues a plan. Never blocks.
    pub(crate) fn submit(&self, plan: StepPlan) -> Result<(), SubmitError> {
        match self {
            Self::Engine(port) => port.submit(plan),
            Self::Remote(plans) => plans.try_send(plan).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SubmitError::Full,
                mpsc::error::TrySendError::Closed(_) => SubmitError::Gone,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_name() {
        let rank = RankId { replica: ReplicaId(3), index: 5 };
        assert_eq!(process_name(rank, 0x17f), "r3-5-17f");
        assert_eq!(rank_of_process("r3-5-17f"), Some(rank));
        for other in ["", "node-1", "r3", "r3-x-17f", "r3-s1-t2-17f"] {
            assert_eq!(rank_of_process(other), None, "{other}");
        }
    }
}
