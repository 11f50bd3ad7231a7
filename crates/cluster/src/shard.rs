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

/// Starts an engine for an epoch: its step port and its thread. Called again after each death.
pub type EngineFactory =
    Arc<dyn Fn(Epoch, EngineSink) -> io::Result<(StepPort, JoinHandle<()>)> + Send + Sync>;

pub(crate) struct Shard;

/// What a stage and its shards are started with.
#[derive(Clone)]
pub(crate) struct ShardArgs {
    pub(crate) epoch: Epoch,
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
        let ShardArgs { epoch, engine, replica } = args;
        let outcomes = replica.clone();
        let sink = Box::new(move |event| match event {
            // C-3: an outcome goes to the scheduler's mailbox, not through this actor.
            EngineEvent::Step(outcome) => drop(outcomes.cast(ReplicaMsg::StepDone(outcome))),
            EngineEvent::Exited { reason, .. } => {
                drop(me.cast(ShardMsg::EngineExited { reason }));
            }
        });
        let (port, thread) = engine(epoch, sink)?;
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
