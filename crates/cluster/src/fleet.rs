//! The replicas there are: started, watched, drained and let go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, ReplicaId};
use ractor::{Actor, ActorCell, SpawnErr};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::backend::Backend;
use crate::blueprint::{Blueprint, Blueprints};
use crate::control::ControlPlane;
use crate::head::HEAD;
use crate::moves::{Actual, ActualReplica};
use crate::nodes::Nodes;
use crate::operation::Split;
use crate::progress::Progress;
use crate::rank::RankStarter;
use crate::replica::{Replica, ReplicaArgs, ReplicaMsg, Revival};
use crate::seats::{Seat, Seats};
use crate::status::{ReplicaState, ReplicaStatus, ShardState, ShardStatus, Share, StageStatus};
use crate::watchdog::StepDeadline;

/// How long a replica that starts may be without a device or a living process, before its start
/// counts as failed. (Loading weights has no such limit.)
const RESTARTING_MAX: Duration = Duration::from_secs(20);

/// Everything that it takes to start a replica.
pub(crate) struct Fleet {
    pub(crate) seats: Arc<Seats>,
    pub(crate) blueprints: Blueprints,
    pub(crate) control: Option<ControlPlane>,
    /// Devices of this process, for ranks that are its threads.
    devices: usize,
    step_deadline: StepDeadline,
    pub(crate) metrics: Arc<Metrics>,
    /// The last epoch of each replica that has left, or that an earlier head had.
    past: Mutex<HashMap<ReplicaId, Epoch>>,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(
        seats: Arc<Seats>,
        blueprints: Blueprints,
        control: Option<ControlPlane>,
        devices: usize,
        step_deadline: StepDeadline,
        metrics: Arc<Metrics>,
    ) -> Self {
        let past = Mutex::default();
        Self { seats, blueprints, control, devices, step_deadline, metrics, past }
    }

    /// An earlier head had this replica, in an epoch that is over.
    pub(crate) fn succeed(&self, id: ReplicaId, epoch: Epoch) {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).insert(id, epoch);
    }

    /// Starts a replica. Requests go to it as soon as it serves.
    ///
    /// # Errors
    /// Why the model cannot be divided like that, or no actor starts.
    pub(crate) async fn start(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        split: &Split,
    ) -> Result<(), String> {
        let blueprint = self.blueprint(split.clone()).await?;
        let starter = (blueprint.starter)();
        let started = self.spawn(supervisor, id, &blueprint, Some(starter)).await;
        started.map_err(|why| format!("cannot start {id}: {why}"))
    }

    /// Enters a replica that rests without ranks, because an earlier head has drained it.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub(crate) async fn enter_drained(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        split: &Split,
    ) -> Result<(), String> {
        let blueprint = self.blueprint(split.clone()).await?;
        let entered = self.spawn(supervisor, id, &blueprint, None).await;
        entered.map_err(|why| format!("cannot enter {id}: {why}"))
    }

    async fn spawn(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        blueprint: &Blueprint,
        starter: Option<RankStarter>,
    ) -> Result<(), SpawnErr> {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        let epoch = past.map_or(Epoch(1), |Epoch(past)| Epoch(past + 1));
        let (board, status) = watch::channel(unstarted(id, epoch, blueprint));
        self.seats.routing().add(id);
        let args = ReplicaArgs {
            id,
            epoch,
            limits: blueprint.limits,
            layout: blueprint.layout,
            concurrent_batches: blueprint.concurrent_batches,
            step_deadline: self.step_deadline,
            starter,
            metrics: self.metrics.replica(id.0),
            board,
            teller: self.seats.routing().teller(id),
            seats: Arc::clone(&self.seats),
            clock: self.seats.clock(),
        };
        let spawned = Actor::spawn_linked(None, Replica, args, supervisor).await;
        let (actor, _) = spawned.inspect_err(|_| self.seats.routing().remove(id))?;
        let (split, backend) = (blueprint.split.clone(), Backend::Replica(actor));
        self.seats.add(Seat { id, split, backend, status });
        Ok(())
    }

    /// Waits until a replica serves.
    ///
    /// # Errors
    /// When it has failed, or finds no device: why.
    pub(crate) async fn serving(&self, id: ReplicaId) -> Result<(), String> {
        let mut status = self.watch(id)?;
        loop {
            let state = status.borrow_and_update().state.clone();
            let changed = match &state {
                ReplicaState::Serving => return Ok(()),
                ReplicaState::Failed { reason } => return Err(format!("{id}: {reason}")),
                ReplicaState::Stopped | ReplicaState::Draining | ReplicaState::Drained => {
                    return Err(format!("{id} was told to end"));
                }
                ReplicaState::Starting => status.changed().await,
                ReplicaState::Restarting { reason } => {
                    let up = status.wait_for(|now| !is_restarting(now));
                    let up = timeout(RESTARTING_MAX, up).await;
                    up.map_err(|_| format!("{id}: {reason}"))?.map(drop)
                }
            };
            changed.map_err(|_| format!("{id} stopped"))?;
        }
    }

    /// Lets a replica take no more requests.
    pub(crate) fn drain(&self, id: ReplicaId, deadline: Duration) {
        self.seats.cast(id, ReplicaMsg::Drain { deadline });
    }

    /// Waits until a draining replica has no ranks any more, then lets others have its devices.
    pub(crate) async fn drained(&self, id: ReplicaId) -> Result<(), String> {
        let over = |status: &ReplicaStatus| {
            let state = &status.state;
            matches!(state, ReplicaState::Drained | ReplicaState::Stopped)
        };
        let over = self.watch(id)?.wait_for(over).await.map(drop);
        over.map_err(|_| format!("{id} stopped"))?;
        if let Some(control) = &self.control {
            control.nodes().release(id);
        }
        Ok(())
    }

    /// Ends a drained replica for good.
    pub(crate) async fn remove(&self, id: ReplicaId) {
        let Some(seat) = self.seats.get(id) else { return };
        let epoch = seat.status.borrow().epoch;
        self.past.lock().unwrap_or_else(PoisonError::into_inner).insert(id, epoch);
        self.seats.remove(id);
        if let Backend::Replica(actor) = seat.backend {
            // It has ended already, if that fails.
            drop(actor.stop_and_wait(None, None).await);
        }
    }

    /// Gives a node no more ranks, or lets it have some again.
    pub(crate) fn cordon(&self, node: &str, cordoned: bool) {
        if let Some(control) = &self.control {
            control.nodes().cordon(node, cordoned);
        }
    }

    /// Forgets a node without ranks.
    pub(crate) fn forget(&self, node: &str) {
        if let Some(control) = &self.control {
            control.nodes().forget(node);
        }
    }

    /// Starts a drained replica again.
    ///
    /// # Errors
    /// When there is no such replica.
    pub(crate) async fn revive(&self, id: ReplicaId) -> Result<(), String> {
        let seat = self.seats.get(id).ok_or_else(|| format!("there is no {id}"))?;
        let blueprint = self.blueprint(seat.split).await?;
        let (_begun, begun) = oneshot::channel();
        let starter = (blueprint.starter)();
        drop(seat.backend.cast(ReplicaMsg::Revive(Revival { starter, _begun })));
        // Nothing is sent: its end is what is waited for.
        drop(begun.await);
        Ok(())
    }

    /// Works out how to make a replica, for which weights may have to be read.
    ///
    /// # Errors
    /// Why the model cannot be divided like that.
    pub(crate) async fn blueprint(&self, split: Split) -> Result<Blueprint, String> {
        (self.blueprints)(split).await
    }

    /// What there is now.
    pub(crate) fn actual(&self) -> Actual {
        let nodes = self.control.as_ref().map(ControlPlane::nodes);
        let replica = |seat: &Seat| {
            let state = seat.status.borrow().state.clone();
            let ranks = if state == ReplicaState::Drained { 0 } else { seat.split.ranks() };
            let nodes = nodes.map(|nodes| nodes.of_replica(seat.id));
            ActualReplica {
                id: seat.id,
                split: seat.split.clone(),
                state,
                nodes: nodes.unwrap_or_else(|| vec![HEAD.to_owned(); ranks]),
            }
        };
        let replicas: Vec<_> = self.seats.all().iter().map(replica).collect();
        let free_here = || {
            let used: usize = replicas.iter().map(|replica| replica.nodes.len()).sum();
            vec![(HEAD.to_owned(), self.devices.saturating_sub(used))]
        };
        let free_devices = nodes.map_or_else(free_here, Nodes::free_devices);
        let own = || [HEAD.to_owned()].into();
        let known_nodes = nodes.map_or_else(own, Nodes::known);
        Actual { replicas, free_devices, known_nodes }
    }

    fn watch(&self, id: ReplicaId) -> Result<watch::Receiver<ReplicaStatus>, String> {
        let seat = self.seats.get(id).ok_or_else(|| format!("there is no {id}"))?;
        Ok(seat.status)
    }
}

fn is_restarting(status: &ReplicaStatus) -> bool {
    matches!(status.state, ReplicaState::Restarting { .. })
}

fn unstarted(id: ReplicaId, epoch: Epoch, blueprint: &Blueprint) -> ReplicaStatus {
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
        progress: Progress::default(),
        epoch,
        running: 0,
        waiting: 0,
        kv_blocks_held: 0,
        kv_blocks: blueprint.limits.kv_blocks as usize,
        prefix_queried_tokens: 0,
        prefix_hit_tokens: 0,
        prefill_tokens: 0,
        generated_tokens: 0,
        stages: blueprint.shares.chunks(blueprint.layout.tensor).map(stage).collect(),
    }
}
