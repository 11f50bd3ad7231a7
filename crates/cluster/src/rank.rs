//! Ranks as the actors see them: started by somebody else, and reporting.

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

/// Starts a rank for an epoch. Called again after each death of its replica.
pub type RankStarter =
    Arc<dyn Fn(Epoch, RankId, RankSink) -> io::Result<StartedRank> + Send + Sync>;

/// Where a rank reports; called on whatever thread it runs.
pub type RankSink = Arc<dyn Fn(RankEvent) + Send + Sync>;

/// What a rank reports.
#[derive(Clone, Debug, PartialEq)]
pub enum RankEvent {
    /// It has a process and a device.
    Placed(Whereabouts),
    /// How far it has come with its weights.
    Loading {
        /// Bytes read.
        bytes: u64,
        /// Bytes to read.
        of: u64,
    },
    /// Its KV cache will have so many blocks; before [`Self::Ready`], if at all.
    Cache {
        /// Blocks.
        kv_blocks: u32,
    },
    /// It takes plans.
    Ready,
    /// It has run a step, and has the outcome.
    Step(StepOutcome),
    /// It has run a step whose outcome another rank has.
    Followed(StepId),
    /// It is lost. The last event.
    Lost(Loss),
}

/// Why a rank is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Loss {
    /// For a person.
    pub reason: String,
    /// Of what sort it is.
    pub cause: LossCause,
}

/// What a rank is lost of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// What it was computing, as far as can be told.
    Step,
    /// The same, but it did not end: a step is overdue.
    Hang,
    /// Something outside: a signal, a cut, another rank.
    Outside,
    /// There is no device for it, or no process could be had there.
    NoDevice,
    /// Its replica was drained.
    Drain,
    /// Nothing: its replica is several times slower than others, and its requests go there.
    Slow,
}

/// A rank that was started. Dropping the port ends it.
pub struct StartedRank {
    /// Where its plans go.
    pub port: RankPort,
    /// What else can be done about it.
    pub handle: Arc<dyn RankHandle>,
    /// Ends when nothing of it runs any more.
    pub ended: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

/// What can be done about a rank from outside, but giving it plans. Never blocks.
pub trait RankHandle: fmt::Debug + Send + Sync {
    /// A step of it is overdue: it ends now, whatever it is doing, as far as it can be ended. Called
    /// before its port is dropped.
    fn abort(&self);

    /// Its replica will not start again: whatever is kept for that is given up, such as its process
    /// and its device.
    fn vacate(&self);

    /// Waits until what [`vacate`](Self::vacate) gives up is gone (**A14**). Nothing is kept by
    /// default.
    fn vacated(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(ready(()))
    }
}

/// Where the plans of a rank go.
#[derive(Debug)]
pub enum RankPort {
    /// To an engine of this process.
    Engine(StepPort),
    /// To whoever passes them on, in a queue of
    /// [`STEPS_QUEUED_MAX`](playhouse_engine::STEPS_QUEUED_MAX) plans.
    Remote(mpsc::Sender<StepPlan>),
}

/// What a process of this rank is called: `start` tells it from earlier ones.
pub(crate) fn process_name(rank: RankId, start: u64) -> String {
    format!("r{}-{}-{start:x}", rank.replica.0, rank.index)
}

/// Whose process is called so.
pub(crate) fn rank_of_process(name: &str) -> Option<RankId> {
    let mut parts = name.split('-');
    let replica = ReplicaId(parts.next()?.strip_prefix('r')?.parse().ok()?);
    Some(RankId { replica, index: parts.next()?.parse().ok()? })
}

/// Where a rank of a replica stands, for a person.
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
    /// Of something outside.
    pub(crate) fn outside(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: LossCause::Outside }
    }

    /// For want of a device or a process.
    pub(crate) fn no_device(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: LossCause::NoDevice }
    }
}

// === impl LossCause ===

impl LossCause {
    /// Whether what was computed may be to blame.
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
