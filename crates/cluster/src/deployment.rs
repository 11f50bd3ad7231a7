//! Deployment: the root of the actor tree, and the handle the binary holds it by.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use playhouse_router::Policy;
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, ReplicaId};
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::error;

use crate::backend::Backend;
use crate::control::ControlPlane;
use crate::front_door::{AdmissionLimits, Bounds, FrontDoor};
use crate::overview::Overview;
use crate::rank::{Layout, RankStarter};
use crate::replica::{Replica, ReplicaArgs};
use crate::routing::Routing;
use crate::seats::{Seat, Seats};
use crate::status::{ReplicaState, ReplicaStatus, ShardState, ShardStatus, Share, StageStatus};

/// What to run.
pub struct DeploymentConfig {
    /// Copies of the model.
    pub replicas: NonZeroU32,
    /// Ranks of each replica.
    pub layout: Layout,
    /// Steps in flight at most. With one stage a second one could only hold requests left out of
    /// the first, and would split the batch. With several, one more than there are stages lets the
    /// first begin a step while the last reports (the batch queue of vLLM's
    /// `step_with_batch_queue`).
    pub concurrent_batches: usize,
    /// What each of them holds, stage by stage.
    pub shares: Vec<Share>,
    /// How requests are spread over the replicas.
    pub policy: Policy,
    /// Starts each rank.
    pub starter: RankStarter,
    /// The control plane, if ranks are processes.
    pub control: Option<ControlPlane>,
    /// Bounds of each scheduler and its KV cache.
    pub limits: Limits,
    /// Bounds of the front door.
    pub admission: AdmissionLimits,
    /// Token ids are below this.
    pub vocab: u32,
    /// Longest prompt whose keys and values do not depend on its length. A longer one shares
    /// prefix-cache blocks only with prompts of the same length. `usize::MAX` unless the model has
    /// dynamic rope, where the frequencies of a whole prompt follow from its length.
    pub shared_prompt_max: usize,
    /// Where the replicas report.
    pub metrics: Arc<Metrics>,
}

/// A running cluster. Dropping it leaves the actors running until the runtime ends; call
/// [`Cluster::stop`].
#[derive(Debug)]
pub struct Cluster {
    front_door: FrontDoor,
    control: Option<ControlPlane>,
    deployment: ActorRef<DeploymentMsg>,
    actors: JoinHandle<()>,
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An actor refused to start; the text has the cause, such as a thread that cannot be made.
    #[error("cannot start the replica: {0}")]
    Spawn(#[from] SpawnErr),
    /// A replica failed before it served.
    #[error("{replica} failed while starting: {reason}")]
    Replica {
        /// Which one.
        replica: ReplicaId,
        /// Why its last rank died.
        reason: String,
    },
}

struct Deployment;

/// A deployment takes no messages yet: what it runs is fixed when it starts.
enum DeploymentMsg {}

// === impl Cluster ===

impl Cluster {
    /// Starts the actor tree. Requests may be submitted at once; they wait until a replica serves.
    ///
    /// # Errors
    /// When an actor refuses to start, with nothing left running.
    pub async fn start(config: DeploymentConfig) -> Result<Self, StartError> {
        let (deployment, actors) = Actor::spawn(None, Deployment, ()).await?;
        // Routing is not secret: a fixed seed keeps it reproducible.
        let routing = Routing::new(config.policy, 0, config.replicas.get());
        let seats = Arc::new(Seats::new(routing));
        match start_replicas(&deployment, &config, &seats).await {
            Ok(started) => seats.fill(started),
            Err(why) => {
                deployment.stop(None);
                drop(actors.await);
                return Err(why.into());
            }
        }
        let DeploymentConfig { limits, admission, vocab, shared_prompt_max, control, .. } = config;
        let bounds = Bounds { limits, admission, vocab, shared_prompt_max };
        let front_door = FrontDoor::new(seats, bounds);
        Ok(Self { front_door, control, deployment, actors })
    }

    /// Waits until every replica serves.
    ///
    /// # Errors
    /// When one of them has failed; the others run on.
    pub async fn serving(&self) -> Result<(), StartError> {
        self.front_door.all_serve().await
    }

    /// Where requests enter.
    #[must_use]
    pub fn front_door(&self) -> &FrontDoor {
        &self.front_door
    }

    /// What operators see.
    #[must_use]
    pub fn overview(&self) -> Overview {
        Overview::new(self.front_door.clone(), self.control.clone())
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
        if let Some(control) = self.control {
            control.shut_down().await;
        }
        left
    }
}

async fn start_replicas(
    deployment: &ActorRef<DeploymentMsg>,
    config: &DeploymentConfig,
    seats: &Arc<Seats>,
) -> Result<Vec<Seat>, SpawnErr> {
    // All replicas have the same clock, because requests move between them.
    let origin = Instant::now();
    let mut started = Vec::new();
    for id in (0..config.replicas.get()).map(ReplicaId) {
        let (board, status) = watch::channel(unstarted(id, config));
        let args = ReplicaArgs {
            id,
            limits: config.limits,
            layout: config.layout,
            concurrent_batches: config.concurrent_batches,
            starter: Arc::clone(&config.starter),
            metrics: config.metrics.replica(id.0),
            board,
            teller: seats.routing().teller(id),
            seats: Arc::clone(seats),
            origin,
        };
        let (actor, _) = Actor::spawn_linked(None, Replica, args, deployment.get_cell()).await?;
        started.push(Seat { id, backend: Backend::Replica(actor), status });
    }
    Ok(started)
}

fn unstarted(id: ReplicaId, config: &DeploymentConfig) -> ReplicaStatus {
    let shard = |share: &Share| ShardStatus {
        state: ShardState::Starting,
        whereabouts: None,
        share: share.clone(),
    };
    let stage = |shares: &[Share]| StageStatus {
        layers: shares[0].layers.clone(),
        shards: shares.iter().map(shard).collect(),
    };
    ReplicaStatus {
        id,
        state: ReplicaState::Starting,
        epoch: Epoch(1),
        running: 0,
        waiting: 0,
        kv_blocks_held: 0,
        kv_blocks: config.limits.kv_blocks as usize,
        prefix_queried_tokens: 0,
        prefix_hit_tokens: 0,
        prefill_tokens: 0,
        generated_tokens: 0,
        stages: config.shares.chunks(config.layout.tensor).map(stage).collect(),
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
