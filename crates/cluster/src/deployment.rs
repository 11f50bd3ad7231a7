//! Deployment: the root of the actor tree, and the handle the binary holds it by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use playhouse_router::Policy;
use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, FinishReason, ReplicaId};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use crate::admission::AdmissionLimits;
use crate::blueprint::{Blueprint, Blueprints};
use crate::control::ControlPlane;
use crate::fleet::{Fleet, FleetConfig};
use crate::front_door::{Bounds, FrontDoor};
use crate::ledger::{Begun, Drained, Ledger};
use crate::moves::{Move, moves};
use crate::operation::{Answer, Change, Desired, Refused};
use crate::overview::Overview;
use crate::reconcile::{Reconciler, Traces};
use crate::replicas::Replicas;
use crate::restart::{RestartBudget, Verdict};
use crate::routing::Routing;
use crate::tasks::{TASKS_END_MAX, Tasks};
use crate::watchdog::StepDeadline;

/// How long a restarted head waits for all of its replicas before one of them is enough.
const ALL_BACK: Duration = Duration::from_secs(3);

/// What to run.
pub struct DeploymentConfig {
    /// What shall run, unless the ledger knows better.
    pub desired: Desired,
    /// How replicas are made.
    pub blueprints: Blueprints,
    /// What operators asked for.
    pub ledger: Arc<Ledger>,
    /// How long a step may take before its ranks count as hung.
    pub step_deadline: StepDeadline,
    /// How requests are spread over the replicas.
    pub policy: Policy,
    /// The control plane, if ranks are processes.
    pub control: Option<ControlPlane>,
    /// Devices of this process for ranks that are its threads, one for each rank.
    pub devices: usize,
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
    ledger: Arc<Ledger>,
    /// What shall run was written down by an earlier head.
    returns: bool,
    deployment: ActorRef<DeploymentMsg>,
    actors: JoinHandle<()>,
    replicas: Arc<Replicas>,
    tasks: Tasks,
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An actor refused to start; the text has the cause, such as a thread that cannot be made.
    #[error("cannot start the deployment: {0}")]
    Spawn(#[from] SpawnErr),
    /// The model cannot be divided as is wanted, a replica cannot be started, or what is wanted cannot
    /// be written down.
    #[error("{0}")]
    Refused(String),
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

struct State {
    fleet: Arc<Fleet>,
    ledger: Arc<Ledger>,
    tasks: Tasks,
    /// Of actors that fail.
    restarts: BTreeMap<ReplicaId, RestartBudget>,
}

/// What an operator asks of a deployment.
pub(crate) enum DeploymentMsg {
    /// A change; see [`Overview::change`].
    Change {
        change: Change,
        key: Option<String>,
        dry_run: bool,
        answer: oneshot::Sender<Result<Answer, Refused>>,
    },
}

// === impl Cluster ===

impl Cluster {
    /// Starts the actor tree. Requests may be submitted at once; they wait until a replica serves.
    ///
    /// # Errors
    /// When an actor refuses to start, with nothing left running.
    pub async fn start(config: DeploymentConfig) -> Result<Self, StartError> {
        let DeploymentConfig { blueprints, ledger, control, devices, .. } = config;
        let returns = ledger.desired().is_some();
        let desired = wanted(&ledger, config.desired).await?;
        let tasks = Tasks::default();
        let patience = config.admission.no_capacity_timeout;
        // Routing is not secret: a fixed seed keeps it reproducible.
        let routing = Routing::new(config.policy, 0);
        let replicas = Arc::new(Replicas::new(routing, patience, Arc::clone(&config.metrics)));
        let fleet = Arc::new(Fleet::new(FleetConfig {
            replicas: Arc::clone(&replicas),
            blueprints,
            control: control.clone(),
            devices,
            step_deadline: config.step_deadline,
            patience,
            metrics: config.metrics,
            tasks: tasks.clone(),
        }));
        let first = fleet.blueprint(desired.layout.clone()).await;
        let Blueprint { limits, .. } = first.map_err(StartError::Refused)?;
        let state = State {
            fleet: Arc::clone(&fleet),
            ledger: Arc::clone(&ledger),
            tasks: tasks.clone(),
            restarts: BTreeMap::new(),
        };
        let (deployment, actors) = Actor::spawn(None, Deployment, state).await?;
        tasks.spawn(keep_waiting_room(Arc::clone(&replicas)));
        let drained = ledger.drained();
        drained.nodes.iter().for_each(|node| fleet.cordon(node, true));
        drained.removed.iter().for_each(|node| fleet.forget(node));
        let before = match &control {
            Some(control) if returns => {
                control.reunite(&desired, &drained, ledger.hosts().as_ref()).await
            }
            Some(control) => {
                control.start_alone();
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        let started = raise(&fleet, deployment.get_cell(), &desired, &drained, before).await;
        if let Err(why) = started {
            deployment.stop(None);
            drop(actors.await);
            tasks.stop();
            return Err(StartError::Refused(why));
        }
        let DeploymentConfig { vocab, shared_prompt_max, admission, .. } = config;
        let bounds = Bounds { limits, admission, vocab, shared_prompt_max };
        let front_door = FrontDoor::new(Arc::clone(&replicas), bounds);
        if let Some(control) = control.clone() {
            tasks.spawn(keep_hosts(control, Arc::clone(&ledger)));
        }
        Ok(Self { front_door, control, ledger, returns, deployment, actors, replicas, tasks })
    }

    /// Waits until every replica serves that comes up at once, and one at least: those that have lost a rank
    /// on their way, such as one of a node that cannot load, follow when they can. After a restart of
    /// the head, those that take long follow as well: there are clients who want to go on.
    ///
    /// # Errors
    /// When all of them have failed: why one of them did.
    pub async fn serving(&self) -> Result<(), StartError> {
        let patience = if self.returns { ALL_BACK } else { Duration::MAX };
        drop(timeout(patience, self.front_door.all_started()).await);
        self.front_door.one_serves().await
    }

    /// Where requests enter.
    #[must_use]
    pub fn front_door(&self) -> &FrontDoor {
        &self.front_door
    }

    /// What operators see, and may change.
    #[must_use]
    pub fn overview(&self) -> Overview {
        Overview::new(
            self.front_door.clone(),
            self.control.clone(),
            Arc::clone(&self.ledger),
            self.deployment.clone(),
        )
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
        // Whoever is left has no replica from now on.
        self.replicas.close_waiting_room(&FinishReason::Draining);
        // No operation shall undo what it did because replicas end now.
        self.tasks.stop();
        self.deployment.stop(None);
        if let Err(why) = self.actors.await {
            error!(reason = %why, "the actor tree panicked while stopping");
        }
        let tasks = self.tasks.ended(TASKS_END_MAX).await;
        if tasks > 0 {
            warn!(tasks, "tasks have not ended within {TASKS_END_MAX:?}");
        }
        if let Some(control) = self.control {
            control.shut_down().await;
        }
        left
    }
}

/// What shall run: what operators asked for, or else what is written down as that now.
async fn wanted(ledger: &Arc<Ledger>, at_first: Desired) -> Result<Desired, StartError> {
    if let Some(desired) = ledger.desired() {
        return Ok(desired);
    }
    let desired = at_first.clone();
    let written = ledger.write(move |ledger| ledger.set_desired(desired)).await;
    let written = written.map_err(|why| StartError::Refused(why.to_string()))?;
    written.map_err(|why| StartError::Refused(why.to_string()))?;
    Ok(at_first)
}

/// Hands out what waits for a replica, for ever. A panic on the way costs nothing but that it is begun
/// anew: what was on its way comes back (**GE-2** of `generation`).
async fn keep_waiting_room(replicas: Arc<Replicas>) {
    loop {
        let replicas = Arc::clone(&replicas);
        let room = tokio::spawn(async move { replicas.run_waiting_room().await });
        if let Err(why) = AbortOnDropHandle::new(room).await {
            error!(%why, "the waiting room failed, and is opened again");
        }
    }
}

/// Writes down on which nodes ranks sit, whenever that changes (**LED-6**). What cannot be written is
/// tried again with the next change: it only says for whom a later head waits.
async fn keep_hosts(control: ControlPlane, ledger: Arc<Ledger>) {
    let mut written = ledger.hosts();
    loop {
        let hosts = control.nodes().hosts(written.as_ref()).await;
        written = Some(hosts.clone());
        match ledger.write(move |ledger| ledger.set_hosts(hosts)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => warn!(%why, "where ranks sit is written with the next change"),
            // The runtime ends.
            Err(_) => return,
        }
    }
}

/// Starts what shall run: those that were drained, who have no ranks; the replicas there were `before`,
/// with their last epochs; and others.
async fn raise(
    fleet: &Fleet,
    deployment: ActorCell,
    desired: &Desired,
    drained: &Drained,
    before: BTreeMap<ReplicaId, Epoch>,
) -> Result<(), String> {
    before.iter().for_each(|(id, epoch)| fleet.succeed(*id, *epoch));
    let known: BTreeSet<ReplicaId> = before.keys().chain(&drained.replicas).copied().collect();
    let others = (0..).map(ReplicaId).filter(|id| !known.contains(id));
    let ids = drained.replicas.iter().chain(before.keys()).copied().chain(others);
    for id in ids.take(desired.replicas as usize) {
        let deployment = deployment.clone();
        match drained.replicas.contains(&id) {
            true => fleet.enter_drained(deployment, id, &desired.layout).await?,
            false => {
                let blueprint = fleet.blueprint(desired.layout.clone()).await?;
                fleet.start(deployment, id, &blueprint).await?;
            }
        }
    }
    Ok(())
}

// === impl Deployment ===

impl Actor for Deployment {
    type Msg = DeploymentMsg;
    type State = State;
    type Arguments = State;

    async fn pre_start(
        &self,
        _: ActorRef<DeploymentMsg>,
        state: State,
    ) -> Result<State, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<DeploymentMsg>,
        message: DeploymentMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let DeploymentMsg::Change { change, key, dry_run, answer } = message;
        // Who asked may have gone.
        drop(answer.send(state.change(me.get_cell(), change, key, dry_run).await));
        Ok(())
    }

    /// A replica whose actor fails is out of routing at once, because its actor does not live, and has
    /// said so in its status. Another is started in its place, sooner or later (**A16**).
    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<DeploymentMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(who, why) = event {
            state.failed(me.get_cell(), who.get_id(), &why.to_string());
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        me: ActorRef<DeploymentMsg>,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        me.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

// === impl State ===

impl State {
    /// The actor of a replica has failed: see [`Fleet::replace`].
    fn failed(&mut self, supervisor: ActorCell, actor: ActorId, why: &str) {
        let FleetConfig { replicas, patience, .. } = &self.fleet.config;
        let Some(id) = replicas.of_actor(actor) else {
            // It was removed meanwhile, or has never started.
            return error!(reason = why, "an actor failed");
        };
        let (clock, patience) = (replicas.clock(), *patience);
        let seed = u64::from(id.0);
        let budget = self.restarts.entry(id).or_insert_with(|| RestartBudget::new(seed, patience));
        budget.serves(clock.now());
        let (Verdict::Restart(wait) | Verdict::GiveUp(wait)) = budget.lost(clock.now());
        error!(replica = %id, reason = why, ?wait, "the actor of a replica failed");
        let fleet = Arc::clone(&self.fleet);
        self.tasks.spawn(async move {
            sleep(wait).await;
            if let Err(why) = fleet.replace(supervisor, id, actor).await {
                error!(replica = %id, why, "the replica has no actor: restart it");
            }
        });
    }

    /// Works a change out, and begins it.
    async fn change(
        &self,
        supervisor: ActorCell,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> Result<Answer, Refused> {
        if let Some(known) = self.ledger.known(&change, key.as_deref())? {
            return Ok(Answer::Accepted(Box::new(known)));
        }
        if let Some(running) = self.ledger.running() {
            return Err(Refused::Busy { running });
        }
        let (before, after, steps) = self.work_out(&change).await?;
        if dry_run {
            return Ok(Answer::Planned(steps.iter().map(ToString::to_string).collect()));
        }
        let drained = self.ledger.drained();
        let aims = (after, drained_after(&change, &steps, drained.clone()));
        let now = SystemTime::now();
        let begun = self.ledger.write(move |ledger| ledger.begin(change, key, aims, now));
        let begun = begun.await.map_err(|why| Refused::Journal(why.to_string()))?;
        let operation = match begun? {
            Begun::Known(operation) => return Ok(Answer::Accepted(Box::new(operation))),
            Begun::New(operation) => operation,
        };
        let reconciler = Reconciler {
            fleet: Arc::clone(&self.fleet),
            ledger: Arc::clone(&self.ledger),
            supervisor,
            id: operation.id,
            before: (before, drained),
            traces: Traces::default(),
        };
        self.tasks.spawn(reconciler.carry_out(steps));
        Ok(Answer::Accepted(Box::new(operation)))
    }

    /// What is wanted now, what will be, and the way there.
    async fn work_out(&self, change: &Change) -> Result<(Desired, Desired, Vec<Move>), Refused> {
        let fleet = &self.fleet;
        let actual = fleet.actual();
        let before = self.ledger.desired().unwrap_or_default();
        if let Change::Deployment { layout: Some(layout), .. } = change {
            fleet.blueprint(layout.clone()).await.map_err(Refused::Invalid)?;
        }
        let (after, steps) = moves(change, &before, &actual)?;
        Ok((before, after, steps))
    }
}

/// What shall have no ranks after a change. A replica that ends or starts on the way is not drained:
/// another one may have its id later.
fn drained_after(change: &Change, steps: &[Move], mut drained: Drained) -> Drained {
    for step in steps {
        if let Move::Start { id, .. } | Move::Remove { id } | Move::Revive { id } = step {
            drained.replicas.remove(id);
        }
    }
    match change {
        Change::DrainReplica { replica, .. } => drop(drained.replicas.insert(*replica)),
        Change::DrainNode { node, .. } => drop(drained.nodes.insert(node.clone())),
        Change::UndrainNode { node } => {
            drained.nodes.remove(node);
            drained.removed.remove(node);
        }
        Change::RemoveNode { node } => {
            drained.nodes.remove(node);
            drained.removed.insert(node.clone());
        }
        Change::Deployment { .. }
        | Change::RestartReplica { .. }
        | Change::RemoveReplica { .. } => {}
    }
    drained
}
