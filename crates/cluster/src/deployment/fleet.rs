//! The fleet: starts, watches, drains and removes the replicas of a deployment.
//!
//! - **FL-1** an actor that failed is replaced once, by its supervisor or by an operation that finds it,
//!   and only while no other actor has taken its place (**A13**, **A16**). Its ranks keep their weights.
//! - **FL-2** a replica whose actor fails while it is drained is drained.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, ParallelSpec, ReplicaId};
use ractor::{Actor, ActorCell, ActorId, SpawnErr};
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::moves::{Actual, ActualReplica};
use crate::blueprint::{Blueprint, Blueprints};
use crate::control::ControlPlane;
use crate::departures::Departures;
use crate::head::HEAD;
use crate::live_ranks::LiveRanks;
use crate::load_reporter::LoadReporter;
use crate::mail::{ReplicaMsg, Revival};
use crate::nodes::Nodes;
use crate::operation::ranks_of;
use crate::progress::Progress;
use crate::rank::RankStarter;
use crate::replica::{Replica, ReplicaArgs};
use crate::replica_entry::ReplicaEntry;
use crate::replicas::Replicas;
use crate::status::{ReplicaState, ReplicaStatus, ShardState, ShardStatus, Share, StageStatus};
use crate::tasks::Tasks;
use crate::watchdog::StepDeadline;

/// How long a replica that starts may be without a device or a living process, before its start
/// counts as failed. (Loading weights has no such limit.)
const RESTARTING_MAX: Duration = Duration::from_secs(20);

/// How long the ranks of an actor that failed may take to end before another starts beside them.
const OLD_RANKS_MAX: Duration = Duration::from_secs(5);

/// The replicas of a deployment, with everything that it takes to start one.
pub(crate) struct Fleet {
    pub(crate) config: FleetConfig,
    /// The last epoch of each replica that has left, or that an earlier head had.
    past: Mutex<HashMap<ReplicaId, Epoch>>,
    /// Replicas that were told to drain, and not to serve again, with the time that they were given.
    retiring: Mutex<HashMap<ReplicaId, Duration>>,
    /// The starter of each replica's ranks, for another actor of the replica.
    starters: Mutex<HashMap<ReplicaId, RankStarter>>,
    /// Held while actors are replaced (**FL-1**).
    replacing: AsyncMutex<()>,
    /// Whether the first replicas were started. Changes are worked out from replicas that are there.
    launched: AtomicBool,
}

/// The configuration that all replicas of a deployment share.
pub(crate) struct FleetConfig {
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) blueprints: Blueprints,
    pub(crate) control: Option<ControlPlane>,
    /// The number of devices of this process, for ranks that are its threads.
    pub(crate) devices: usize,
    pub(crate) step_deadline: StepDeadline,
    /// How long requests may wait for a replica.
    pub(crate) patience: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// The tasks of the head.
    pub(crate) tasks: Tasks,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(config: FleetConfig) -> Self {
        let (past, retiring, starters, replacing, launched) = Default::default();
        Self { config, past, retiring, starters, replacing, launched }
    }

    /// Records that the first replicas were started.
    pub(crate) fn set_launched(&self) {
        self.launched.store(true, Ordering::Relaxed);
    }

    /// Returns whether the first replicas were started.
    pub(crate) fn is_launched(&self) -> bool {
        self.launched.load(Ordering::Relaxed)
    }

    /// Records that an earlier head had this replica, in an epoch that is over.
    pub(crate) fn succeed(&self, id: ReplicaId, epoch: Epoch) {
        self.past.lock().insert(id, epoch);
    }

    /// Starts a replica. Requests go to it as soon as it serves.
    ///
    /// # Errors
    /// Why no actor starts.
    pub(crate) async fn start(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        blueprint: &Blueprint,
    ) -> Result<(), String> {
        let starter = (blueprint.starter)();
        self.retiring.lock().remove(&id);
        let started = self.spawn(supervisor, id, blueprint, Some(starter)).await;
        started.map_err(|why| format!("cannot start {id}: {why}"))
    }

    /// Enters a replica that rests without ranks, because an earlier head has drained it.
    ///
    /// # Errors
    /// Why the model cannot be divided like that, or no actor starts.
    pub(crate) async fn enter_drained(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        layout: &ParallelSpec,
    ) -> Result<(), String> {
        let blueprint = self.blueprint(layout.clone()).await?;
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
        let past = self.past.lock().get(&id).copied();
        let epoch = past.map_or(Epoch(1), |Epoch(past)| Epoch(past + 1));
        let ranks = Arc::new(LiveRanks::new(self.config.tasks.clone()));
        self.config.replicas.routing().add(id);
        let spawned = self.spawn_actor(supervisor, id, epoch, blueprint, starter, ranks).await;
        spawned.inspect_err(|_| self.config.replicas.routing().remove(id))
    }

    async fn spawn_actor(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        epoch: Epoch,
        blueprint: &Blueprint,
        starter: Option<RankStarter>,
        ranks: Arc<LiveRanks>,
    ) -> Result<(), SpawnErr> {
        let FleetConfig { replicas, step_deadline, patience, metrics, .. } = &self.config;
        let (board, status) = watch::channel(unstarted(id, epoch, blueprint));
        let departures = Arc::<Departures>::default();
        self.keep_starter(id, starter.clone());
        let args = ReplicaArgs {
            id,
            epoch,
            limits: blueprint.limits,
            map: Arc::clone(&blueprint.map),
            concurrent_batches: blueprint.concurrent_batches,
            step_deadline: *step_deadline,
            starter,
            ranks: Arc::clone(&ranks),
            departures: Arc::clone(&departures),
            patience: *patience,
            metrics: metrics.replica(id.0),
            board,
            load_reporter: LoadReporter::new(replicas.routing().clone(), id),
            replicas: Arc::clone(replicas),
            clock: replicas.clock(),
        };
        let (actor, _) = Actor::spawn_linked(None, Replica, args, supervisor).await?;
        let (layout, actor) = (blueprint.layout.clone(), Some(actor));
        replicas.add(ReplicaEntry { id, layout, actor, status, ranks, departures });
        // The replica may serve already.
        replicas.wake_parked();
        Ok(())
    }

    fn keep_starter(&self, id: ReplicaId, starter: Option<RankStarter>) {
        let mut starters = self.starters.lock();
        match starter {
            Some(starter) => starters.insert(id, starter),
            None => starters.remove(&id),
        };
    }

    /// Starts another actor in the place of one that failed, unless that was done before (**FL-1**). The
    /// new actor starts the same ranks in a later epoch, or rests if the failed one was told to
    /// (**FL-2**).
    ///
    /// # Errors
    /// Why the model cannot be divided any more, or no actor starts.
    pub(crate) async fn replace(
        &self,
        supervisor: ActorCell,
        id: ReplicaId,
        failed: ActorId,
    ) -> Result<(), String> {
        let _one_at_a_time = self.replacing.lock().await;
        let entry = self.config.replicas.get(id).filter(|entry| entry.is(failed));
        let Some(ReplicaEntry { layout, status, ranks, .. }) = entry else { return Ok(()) };
        let blueprint = self.blueprint(layout).await?;
        let retires = self.retiring.lock().contains_key(&id);
        let starter = self.starters.lock().get(&id).cloned().filter(|_| !retires);
        let last = status.borrow().epoch.max(ranks.last_epoch().unwrap_or_default());
        let epoch = Epoch(last.0 + 1);
        if starter.is_none() {
            ranks.gone().await;
        } else if timeout(OLD_RANKS_MAX, ranks.ended_before(epoch)).await.is_err() {
            warn!(replica = %id, "ranks of its failed actor have not ended: others start beside them");
        }
        info!(replica = %id, %epoch, "another actor takes its place");
        let spawned = self.spawn_actor(supervisor, id, epoch, &blueprint, starter, ranks).await;
        spawned.map_err(|why| format!("cannot start {id} again: {why}"))?;
        // A drain that came meanwhile was told to the failed actor.
        self.tell_to_drain(id);
        Ok(())
    }

    /// Returns the actor of a replica, if it has failed.
    fn failed_actor(&self, id: ReplicaId) -> Option<ActorId> {
        let entry = self.config.replicas.get(id).filter(|entry| !entry.lives())?;
        entry.actor.map(|actor| actor.get_id())
    }

    /// Waits until a replica serves.
    ///
    /// # Errors
    /// When the replica has failed, or finds no device: why.
    pub(crate) async fn serving(&self, id: ReplicaId) -> Result<(), String> {
        let mut status = self.watch(id)?;
        loop {
            let ReplicaStatus { state, waits_for, .. } = status.borrow_and_update().clone();
            let changed = match &state {
                ReplicaState::Serving => return Ok(()),
                ReplicaState::Failed { reason } => return Err(format!("{id}: {reason}")),
                ReplicaState::Stopped | ReplicaState::Draining | ReplicaState::Drained => {
                    return Err(format!("{id} was told to end"));
                }
                ReplicaState::Starting if waits_for.is_none() => status.changed().await,
                ReplicaState::Starting | ReplicaState::Restarting { .. } => {
                    let up = status.wait_for(|now| !is_held_up(now));
                    let up = timeout(RESTARTING_MAX, up).await.map(|up| up.map(drop));
                    up.map_err(|_| format!("{id}: {}", hold_up(state, waits_for)))?
                }
            };
            changed.map_err(|_| format!("{id} stopped"))?;
        }
    }

    /// Tells a replica to take no more requests.
    pub(crate) fn drain(&self, id: ReplicaId, deadline: Duration) {
        self.retiring.lock().insert(id, deadline);
        self.tell_to_drain(id);
    }

    /// Passes on the drain of a replica to its actor, if there is one. An actor that drains, or has drained,
    /// keeps doing so.
    fn tell_to_drain(&self, id: ReplicaId) {
        let deadline = self.retiring.lock().get(&id).copied();
        if let (Some(deadline), Some(entry)) = (deadline, self.config.replicas.get(id)) {
            drop(entry.send(ReplicaMsg::Drain { deadline }));
        }
    }

    /// Waits until a draining replica has no ranks any more (**A14**), so that others may have its
    /// devices.
    ///
    /// # Errors
    /// When there is no such replica, or its actor has failed and no other starts.
    pub(crate) async fn drained(
        &self,
        supervisor: &ActorCell,
        id: ReplicaId,
    ) -> Result<(), String> {
        let over = |status: &ReplicaStatus| {
            let state = &status.state;
            matches!(state, ReplicaState::Drained | ReplicaState::Stopped)
        };
        loop {
            let mut status = self.watch(id)?;
            // A sender that is gone belonged to an actor that is gone.
            if self.failed_actor(id).is_none() && status.wait_for(over).await.is_ok() {
                self.keep_starter(id, None);
                return Ok(());
            }
            let Some(failed) = self.failed_actor(id) else {
                // Between its last word and its end, or the first word of another.
                tokio::task::yield_now().await;
                continue;
            };
            self.replace(supervisor.clone(), id, failed).await?;
        }
    }

    /// Ends a drained replica for good. Requests on their way there go elsewhere (**GE-2** of `sink`).
    pub(crate) async fn remove(&self, id: ReplicaId) {
        let _not_replaced = self.replacing.lock().await;
        let Some(entry) = self.config.replicas.get(id) else { return };
        let epoch = entry.status.borrow().epoch;
        self.past.lock().insert(id, epoch);
        self.config.replicas.remove(id);
        self.retiring.lock().remove(&id);
        self.keep_starter(id, None);
        if let Some(actor) = entry.actor {
            // An error means that the actor has ended already.
            drop(actor.stop_and_wait(None, None).await);
        }
        entry.ranks.gone().await;
    }

    /// Excludes a node from getting ranks, or admits it again.
    pub(crate) fn cordon(&self, node: &str, cordoned: bool) {
        if let Some(control) = &self.config.control {
            control.nodes().cordon(node, cordoned);
        }
    }

    /// Forgets a node without ranks.
    pub(crate) fn forget(&self, node: &str) {
        if let Some(control) = &self.config.control {
            control.nodes().forget(node);
        }
    }

    /// Returns the blueprint with which to start a drained or failed replica again.
    ///
    /// # Errors
    /// When there is no such replica, or the model cannot be divided any more.
    pub(crate) async fn blueprint_of(&self, id: ReplicaId) -> Result<Blueprint, String> {
        let entry = self.config.replicas.get(id).ok_or_else(|| format!("there is no {id}"))?;
        self.blueprint(entry.layout).await
    }

    /// Starts a drained or failed replica again.
    ///
    /// # Errors
    /// When there is no such replica, or its actor has failed and no other starts.
    pub(crate) async fn revive(
        &self,
        supervisor: &ActorCell,
        id: ReplicaId,
        blueprint: &Blueprint,
    ) -> Result<(), String> {
        if let Some(failed) = self.failed_actor(id) {
            self.replace(supervisor.clone(), id, failed).await?;
        }
        let entry = self.config.replicas.get(id).ok_or_else(|| format!("there is no {id}"))?;
        self.retiring.lock().remove(&id);
        let (_begun, begun) = oneshot::channel();
        let starter = (blueprint.starter)();
        self.keep_starter(id, Some(Arc::clone(&starter)));
        drop(entry.send(ReplicaMsg::Revive(Revival { starter, _begun })));
        // Nothing is ever sent: the channel ends when the replica has begun.
        drop(begun.await);
        Ok(())
    }

    /// Works out the blueprint of a replica, for which weights may have to be read.
    ///
    /// # Errors
    /// Why the model cannot be divided by that layout.
    pub(crate) async fn blueprint(&self, layout: ParallelSpec) -> Result<Blueprint, String> {
        (self.config.blueprints)(layout).await
    }

    /// Returns the replicas, devices and nodes that there are now.
    pub(crate) fn actual(&self) -> Actual {
        let nodes = self.config.control.as_ref().map(ControlPlane::nodes);
        let replica = |entry: &ReplicaEntry| {
            let state = entry.state();
            let ranks = if state == ReplicaState::Drained { 0 } else { ranks_of(&entry.layout) };
            let nodes = nodes.map(|nodes| nodes.of_replica(entry.id));
            ActualReplica {
                id: entry.id,
                layout: entry.layout.clone(),
                state,
                nodes: nodes.unwrap_or_else(|| vec![HEAD.to_owned(); ranks]),
            }
        };
        let replicas: Vec<_> = self.config.replicas.all().iter().map(replica).collect();
        let free_here = || {
            let used: usize = replicas.iter().map(|replica| replica.nodes.len()).sum();
            vec![(HEAD.to_owned(), self.config.devices.saturating_sub(used))]
        };
        let free_devices = nodes.map_or_else(free_here, Nodes::free_devices);
        let own = || [HEAD.to_owned()].into();
        let known_nodes = nodes.map_or_else(own, Nodes::known);
        Actual { replicas, free_devices, known_nodes }
    }

    fn watch(&self, id: ReplicaId) -> Result<watch::Receiver<ReplicaStatus>, String> {
        let entry = self.config.replicas.get(id).ok_or_else(|| format!("there is no {id}"))?;
        Ok(entry.status)
    }
}

/// Returns whether a replica that starts has no device, or no living process.
fn is_held_up(status: &ReplicaStatus) -> bool {
    status.waits_for.is_some() || matches!(status.state, ReplicaState::Restarting { .. })
}

/// Returns what holds a replica up.
fn hold_up(state: ReplicaState, waits_for: Option<String>) -> String {
    match (waits_for, state) {
        (Some(what), _) => what,
        (None, ReplicaState::Restarting { reason }) => reason,
        (None, _) => "its ranks have not started".to_owned(),
    }
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
        waits_for: None,
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
        stages: blueprint.shares.chunks(blueprint.map.stage_ranks()).map(stage).collect(),
    }
}
