//! Ranks as the actors see them: started by somebody else, and reporting.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use playhouse_engine::{EngineEvent, StepPort, SubmitError};
use playhouse_types::{Epoch, ReplicaId, StepId, StepOutcome, StepPlan};
use tokio::sync::mpsc;

use crate::status::Whereabouts;

/// The ranks of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Stages, at least 1.
    pub stages: usize,
    /// Ranks of each stage, at least 1.
    pub tensor: usize,
}

/// One rank of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rank {
    /// Its replica.
    pub replica: ReplicaId,
    /// Its stage.
    pub stage: usize,
    /// Its place among the ranks of the stage.
    pub tensor: usize,
}

/// Starts a rank for an epoch. Called again after each death of its replica.
pub type RankStarter = Arc<dyn Fn(Epoch, Rank, RankSink) -> io::Result<StartedRank> + Send + Sync>;

/// Where a rank reports; called on whatever thread it runs.
pub type RankSink = Arc<dyn Fn(RankEvent) + Send + Sync>;

/// What a rank reports.
#[derive(Clone, Debug, PartialEq)]
pub enum RankEvent {
    /// It has a process and a device.
    Seated(Whereabouts),
    /// How far it has come with its weights.
    Loading {
        /// Bytes read.
        bytes: u64,
        /// Bytes to read.
        of: u64,
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
    /// Something outside: a signal, a cut, another rank.
    Outside,
    /// There is no device for it, or no process could be had there.
    NoSeat,
}

/// A rank that was started. Dropping the port ends it.
pub struct StartedRank {
    /// Where its plans go.
    pub port: RankPort,
    /// Ends when nothing of it runs any more.
    pub ended: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
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

// === impl Layout ===

impl Layout {
    /// Ranks of a replica.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.stages * self.tensor
    }
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
    pub(crate) fn no_seat(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), cause: LossCause::NoSeat }
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
