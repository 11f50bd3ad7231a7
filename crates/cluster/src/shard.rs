//! Shard: the proxy of one rank. Owns the engine's thread; knows nothing of plans and tokens.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use playhouse_engine::{EngineEvent, StepPort};
use playhouse_types::Epoch;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::replica::ReplicaMsg;

/// Where an engine reports; called on the engine's own thread.
pub type EngineSink = Box<dyn Fn(EngineEvent) + Send>;

/// Starts the engine of a rank for an epoch: its step port and its thread. Called again after each
/// death.
pub type EngineFactory =
    Arc<dyn Fn(Epoch, Rank, EngineSink) -> io::Result<(StepPort, JoinHandle<()>)> + Send + Sync>;

/// The ranks of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Stages, at least 1.
    pub stages: usize,
    /// Ranks of each stage, at least 1.
    pub tensor: usize,
}

/// One rank of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Its stage.
    pub stage: usize,
    /// Its place among the ranks of the stage.
    pub tensor: usize,
}

pub(crate) struct Shard;

/// What a shard is started with.
#[derive(Clone)]
pub(crate) struct ShardArgs {
    pub(crate) epoch: Epoch,
    pub(crate) rank: Rank,
    pub(crate) engine: EngineFactory,
    pub(crate) replica: ActorRef<ReplicaMsg>,
}

pub(crate) enum ShardMsg {
    /// The engine thread ended by itself.
    EngineExited { reason: String },
}

// === impl Shard ===

impl Actor for Shard {
    type Msg = ShardMsg;
    type State = Option<JoinHandle<()>>;
    type Arguments = ShardArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ShardMsg>,
        args: ShardArgs,
    ) -> Result<Self::State, ActorProcessingErr> {
        let ShardArgs { epoch, rank, engine, replica } = args;
        let outcomes = replica.clone();
        let sink = Box::new(move |event| match event {
            EngineEvent::Ready { epoch } => {
                drop(outcomes.cast(ReplicaMsg::EngineReady { epoch }));
            }
            // C-3: an outcome goes to the scheduler's mailbox, not through this actor.
            EngineEvent::Step(outcome) => drop(outcomes.cast(ReplicaMsg::StepDone(outcome))),
            EngineEvent::Followed { epoch, .. } => {
                drop(outcomes.cast(ReplicaMsg::StepFollowed { epoch, rank }));
            }
            EngineEvent::Exited { reason, .. } => {
                drop(me.cast(ShardMsg::EngineExited { reason }));
            }
        });
        let (port, thread) = engine(epoch, rank, sink)?;
        replica.cast(ReplicaMsg::EngineStarted { epoch, port })?;
        Ok(Some(thread))
    }

    async fn handle(
        &self,
        _: ActorRef<ShardMsg>,
        message: ShardMsg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let ShardMsg::EngineExited { reason } = message;
        Err(reason.into())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ShardMsg>,
        thread: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // The replica has dropped the port, so the thread ends with its current step.
        if let Some(thread) = thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
            joined.map_err(|_| "the engine thread panicked")?;
        }
        Ok(())
    }
}
