//! Deployment: the root of the actor tree, and the handle the binary holds it by.

use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::error;

use crate::backend::Backend;
use crate::front_door::{AdmissionLimits, Bounds, FrontDoor};
use crate::replica::{Replica, ReplicaArgs, ReplicaMsg};
use crate::shard::{EngineFactory, Layout};
use crate::state::ReplicaState;

/// What to run.
pub struct DeploymentConfig {
    /// Ranks of the replica.
    pub layout: Layout,
    /// Starts the engine of each rank.
    pub engine: EngineFactory,
    /// Bounds of the scheduler and of the KV cache.
    pub limits: Limits,
    /// Bounds of the front door.
    pub admission: AdmissionLimits,
    /// Token ids are below this.
    pub vocab: u32,
    /// Longest prompt whose keys and values do not depend on its length. A longer one shares
    /// prefix-cache blocks only with prompts of the same length. `usize::MAX` unless the model has
    /// dynamic rope, where the frequencies of a whole prompt follow from its length.
    pub shared_prompt_max: usize,
    /// Where the replica reports.
    pub metrics: Arc<Metrics>,
}

/// A running cluster. Dropping it leaves the actors running until the runtime ends; call
/// [`Cluster::stop`].
#[derive(Debug)]
pub struct Cluster {
    front_door: FrontDoor,
    deployment: ActorRef<DeploymentMsg>,
    actors: JoinHandle<()>,
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An actor refused to start; the text has the cause, such as a thread that cannot be made.
    #[error("cannot start the replica: {0}")]
    Spawn(#[from] SpawnErr),
    /// The engine died before it served.
    #[error("the engine failed while starting: {0}")]
    Engine(String),
}

struct Deployment;

/// A deployment takes no messages yet: what it runs is fixed when it starts.
enum DeploymentMsg {}

// === impl Cluster ===

impl Cluster {
    /// Starts the actor tree and waits until its replica serves.
    ///
    /// # Errors
    /// [`StartError`], with nothing left running.
    pub async fn start(config: DeploymentConfig) -> Result<Self, StartError> {
        let DeploymentConfig {
            layout,
            engine,
            limits,
            admission,
            vocab,
            shared_prompt_max,
            metrics,
        } = config;
        let bounds = Bounds { limits, admission, vocab, shared_prompt_max };
        let (state, mut watched) = watch::channel(ReplicaState::Starting);
        let args = ReplicaArgs { limits, layout, engine, metrics, state };
        let (deployment, actors) = Actor::spawn(None, Deployment, ()).await?;
        let spawned = Actor::spawn_linked(None, Replica, args, deployment.get_cell()).await;
        let replica: ActorRef<ReplicaMsg> = match spawned {
            Ok((replica, _)) => replica,
            Err(why) => {
                deployment.stop(None);
                return Err(why.into());
            }
        };
        let settled = |state: &ReplicaState| {
            !matches!(state, ReplicaState::Starting | ReplicaState::Restarting { .. })
        };
        // The sender lives in the replica, which publishes a state before it goes.
        let state = watched.wait_for(settled).await.map(|state| state.clone());
        match state {
            Ok(ReplicaState::Serving) => {}
            Ok(ReplicaState::Failed { reason }) => return Err(StartError::Engine(reason)),
            _ => return Err(StartError::Engine("the replica stopped".to_owned())),
        }
        let front_door = FrontDoor::new(Backend::Replica(replica), watched, bounds);
        Ok(Self { front_door, deployment, actors })
    }

    /// Where requests enter.
    #[must_use]
    pub fn front_door(&self) -> &FrontDoor {
        &self.front_door
    }

    /// Refuses new requests, waits until the accepted ones have finished or `deadline` has
    /// passed, then stops every actor and joins the engine. Whatever is left ends as failed.
    /// Returns how many requests that were.
    pub async fn stop(self, deadline: Duration) -> u32 {
        self.front_door.start_drain();
        let left = match timeout(deadline, self.front_door.drained()).await {
            Ok(()) => 0,
            Err(_) => self.front_door.in_flight(),
        };
        self.deployment.stop(None);
        if let Err(why) = self.actors.await {
            error!(reason = %why, "the actor tree panicked while stopping");
        }
        left
    }
}

// === impl Deployment ===

impl Actor for Deployment {
    type Msg = DeploymentMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<DeploymentMsg>,
        (): (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<DeploymentMsg>,
        event: SupervisionEvent,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        // The process lives on: readiness says what happened, and metrics can still be read.
        if let SupervisionEvent::ActorFailed(_, why) = event {
            error!(reason = %why, "replica gave up");
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        me: ActorRef<DeploymentMsg>,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        me.stop_children_and_wait(None, None).await;
        Ok(())
    }
}
