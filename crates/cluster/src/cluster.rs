//! [`Cluster`]: the handle by which the program holds the actor tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use playhouse_router::Policy;
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, FinishReason, ReplicaId};
use ractor::{Actor, ActorCell, ActorRef};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::admission::AdmissionLimits;
use crate::awaited::WeightsProgress;
use crate::blueprint::Blueprints;
use crate::control::ControlPlane;
use crate::deployment::{Deployment, DeploymentState, Fleet, FleetConfig};
use crate::dispatcher::Dispatcher;
use crate::front_door::{Bounds, FrontDoor};
use crate::ledger::{Drained, Ledger};
use crate::mail::DeploymentMsg;
use crate::operation::Desired;
use crate::outlook::Outlook;
use crate::overview::Overview;
use crate::replicas::{Replicas, Routing};
use crate::start_error::StartError;
use crate::tasks::{TASKS_END_MAX, Tasks};
use crate::watchdog::StepDeadline;

/// How long a restarted head waits for all of its replicas before a single one is enough.
const ALL_BACK: Duration = Duration::from_secs(3);

/// The configuration of a cluster.
pub struct DeploymentConfig {
    /// The deployment that is wanted at the first start; a later start takes it from the ledger.
    pub desired: Desired,
    /// Makes the blueprints of replicas.
    pub blueprints: Blueprints,
    /// The bounds against which the front door checks requests: those of every blueprint, as far as they
    /// do not depend on its layout.
    pub limits: Limits,
    /// The progress of the weights that `blueprints` reads.
    pub weights: WeightsProgress,
    /// The ledger of what operators asked for.
    pub ledger: Arc<Ledger>,
    /// The longest time that a step may take before its ranks count as hung.
    pub step_deadline: StepDeadline,
    /// The policy by which requests are spread over the replicas.
    pub policy: Policy,
    /// The control plane, if ranks are processes.
    pub control: Option<ControlPlane>,
    /// Number of devices of this process, for ranks that are its threads; each rank takes one device.
    pub devices: usize,
    /// Bounds of the front door.
    pub admission: AdmissionLimits,
    /// Size of the vocabulary: all token ids are below this.
    pub vocab: u32,
    /// Longest prompt whose keys and values do not depend on its length. A longer one shares
    /// prefix-cache blocks only with prompts of the same length. `usize::MAX` unless the model has
    /// dynamic rope, where the frequencies of a whole prompt follow from its length.
    pub shared_prompt_max: usize,
    /// The metrics to which replicas report.
    pub metrics: Arc<Metrics>,
}

/// A running cluster. Dropping the handle leaves the actors running until the runtime ends; call
/// [`Cluster::stop`].
pub struct Cluster {
    front_door: FrontDoor,
    control: Option<ControlPlane>,
    ledger: Arc<Ledger>,
    /// Whether an earlier head wrote down what is wanted.
    returns: bool,
    /// The deployment to launch.
    desired: Desired,
    fleet: Arc<Fleet>,
    deployment: ActorRef<DeploymentMsg>,
    actors: JoinHandle<()>,
    replicas: Arc<Replicas>,
    tasks: Tasks,
}

// === impl Cluster ===

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("front_door", &self.front_door).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Opens a cluster and launches its replicas.
    ///
    /// # Errors
    /// See [`Cluster::open`] and [`Cluster::launch`]; nothing is left running.
    pub async fn start(config: DeploymentConfig) -> Result<Self, StartError> {
        let cluster = Self::open(config).await?;
        match cluster.launch().await {
            Ok(()) => Ok(cluster),
            Err(why) => {
                cluster.stop(Duration::ZERO).await;
                Err(why)
            }
        }
    }

    /// Starts the actor tree without replicas. Requests may be submitted at once; they wait until
    /// [`Cluster::launch`] has started a replica that serves.
    ///
    /// # Errors
    /// When an actor refuses to start, or the wanted deployment cannot be written down.
    pub async fn open(config: DeploymentConfig) -> Result<Self, StartError> {
        let DeploymentConfig { blueprints, ledger, control, devices, .. } = config;
        let returns = ledger.desired().is_some();
        let desired = wanted(&ledger, config.desired).await?;
        let tasks = Tasks::default();
        let patience = config.admission.no_capacity_timeout;
        // Routing is not secret: a fixed seed keeps it reproducible.
        let routing = Routing::new(config.policy, 0);
        let outlook = Outlook { control: control.clone(), weights: config.weights };
        let metrics = Arc::clone(&config.metrics);
        let replicas = Arc::new(Replicas::new(routing, patience, metrics, outlook));
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
        let state = DeploymentState::new(Arc::clone(&fleet), Arc::clone(&ledger), tasks.clone());
        let (deployment, actors) = Actor::spawn(None, Deployment, state).await?;
        tasks.spawn(Dispatcher::keep(Arc::clone(&replicas)));
        let DeploymentConfig { limits, vocab, shared_prompt_max, admission, .. } = config;
        let bounds = Bounds { limits, admission, vocab, shared_prompt_max };
        let front_door = FrontDoor::new(Arc::clone(&replicas), bounds);
        Ok(Self {
            front_door,
            control,
            ledger,
            returns,
            desired,
            fleet,
            deployment,
            actors,
            replicas,
            tasks,
        })
    }

    /// Launches the replicas of the wanted deployment, after ranks of an earlier head had time to come
    /// back. Changes are refused until then. Weights may have to be read first, so this can take minutes.
    ///
    /// # Errors
    /// When the model cannot be divided as wanted, or a replica cannot be started.
    pub async fn launch(&self) -> Result<(), StartError> {
        let Self { fleet, ledger, control, desired, .. } = self;
        // An invalid layout is reported before nodes are waited for. Kept, because the weights that are
        // read for a blueprint live as long as a blueprint or a replica has them.
        let first = fleet.blueprint(desired.layout.clone()).await;
        let _first = first.map_err(StartError::Refused)?;
        let drained = ledger.drained();
        drained.nodes.iter().for_each(|node| fleet.cordon(node, true));
        drained.removed.iter().for_each(|node| fleet.forget(node));
        let before = match control {
            Some(control) if self.returns => {
                control.reunite(desired, &drained, ledger.hosts().as_ref()).await
            }
            Some(control) => {
                control.start_alone();
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        let deployment = self.deployment.get_cell();
        let started = start_all(fleet, deployment, desired, &drained, before).await;
        started.map_err(StartError::Refused)?;
        fleet.set_launched();
        if let Some(control) = control.clone() {
            self.tasks.spawn(keep_hosts(control, Arc::clone(ledger)));
        }
        Ok(())
    }

    /// Waits until no replica is in its first start and at least one serves. A replica that has lost a
    /// rank on the way, such as one on a node that cannot load, follows when it can. After a restart of
    /// the head, slow replicas follow later as well, because clients wait to go on.
    ///
    /// # Errors
    /// When all replicas have failed: why one of them did.
    pub async fn serving(&self) -> Result<(), StartError> {
        let patience = if self.returns { ALL_BACK } else { Duration::MAX };
        drop(timeout(patience, self.front_door.all_started()).await);
        self.front_door.one_serves().await
    }

    /// Returns the front door, by which requests enter.
    #[must_use]
    pub fn front_door(&self) -> &FrontDoor {
        &self.front_door
    }

    /// Returns the handle by which operators see the cluster and change it.
    #[must_use]
    pub fn overview(&self) -> Overview {
        Overview::new(
            self.front_door.clone(),
            self.control.clone(),
            Arc::clone(&self.ledger),
            self.deployment.clone(),
        )
    }

    /// Refuses new requests, waits until the accepted ones have finished or `deadline` has passed, then
    /// stops every actor and joins the engine. Requests that are left end as failed. Returns the number
    /// of those requests.
    pub async fn stop(self, deadline: Duration) -> u32 {
        self.front_door.start_drain();
        let left = match timeout(deadline, self.front_door.drained()).await {
            Ok(()) => 0,
            Err(_) => self.front_door.in_flight(),
        };
        // Requests that are left have no replica from now on.
        self.replicas.waiting_room().close(&FinishReason::Draining);
        // The end of the replicas is no reason for an operation to undo what it did.
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

/// Returns the deployment that is wanted: what operators asked for, or else `at_first`, which is written
/// down then.
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

/// Writes down the nodes that have ranks whenever they change (**LED-6**). A write that fails is tried
/// again with the next change: it only says for which nodes a later head waits.
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

/// Starts the replicas that are wanted: drained ones without ranks, those of `before` with their last
/// epochs, and new ones.
async fn start_all(
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
