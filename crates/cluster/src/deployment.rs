//! Deployment: the root of the actor tree. The deployment carries out changes, and replaces the actors
//! of replicas that fail.

mod fleet;
mod moves;
mod reconcile;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use playhouse_types::ReplicaId;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::sleep;
use tracing::error;

pub(crate) use self::fleet::{Fleet, FleetConfig};

use self::moves::{Move, moves};
use self::reconcile::{Reconciler, Traces};
use crate::ledger::{Begun, Drained, Ledger};
use crate::mail::DeploymentMsg;
use crate::operation::{Answer, Change, Desired, Refused};
use crate::restart::{RestartBudget, Verdict};
use crate::tasks::Tasks;

/// The actor that keeps the wanted replicas running.
pub(crate) struct Deployment;

/// The state of the deployment's actor.
pub(crate) struct DeploymentState {
    fleet: Arc<Fleet>,
    ledger: Arc<Ledger>,
    tasks: Tasks,
    /// The restart budgets of replicas whose actors failed.
    restarts: BTreeMap<ReplicaId, RestartBudget>,
}

// === impl Deployment ===

impl Actor for Deployment {
    type Msg = DeploymentMsg;
    type State = DeploymentState;
    type Arguments = DeploymentState;

    async fn pre_start(
        &self,
        _: ActorRef<DeploymentMsg>,
        state: DeploymentState,
    ) -> Result<DeploymentState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<DeploymentMsg>,
        message: DeploymentMsg,
        state: &mut DeploymentState,
    ) -> Result<(), ActorProcessingErr> {
        let DeploymentMsg::Change { change, key, dry_run, answer } = message;
        // The operator that asked may have gone.
        drop(answer.send(state.change(me.get_cell(), change, key, dry_run).await));
        Ok(())
    }

    /// Replaces the actor of a replica when it fails (**A16**). Such a replica is out of routing at
    /// once, because its actor does not live any more, and has said so in its status.
    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<DeploymentMsg>,
        event: SupervisionEvent,
        state: &mut DeploymentState,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(who, why) = event {
            state.failed(me.get_cell(), who.get_id(), &why.to_string());
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        me: ActorRef<DeploymentMsg>,
        _: &mut DeploymentState,
    ) -> Result<(), ActorProcessingErr> {
        me.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

// === impl DeploymentState ===

impl DeploymentState {
    pub(crate) fn new(fleet: Arc<Fleet>, ledger: Arc<Ledger>, tasks: Tasks) -> Self {
        Self { fleet, ledger, tasks, restarts: BTreeMap::new() }
    }

    /// Handles the failure of a replica's actor: see [`Fleet::replace`].
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

    /// Works out the moves of a change, and begins the operation.
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
        if !self.fleet.is_launched() {
            return Err(Refused::Starting);
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

    /// Returns what is wanted now, what will be wanted, and the moves that lead there.
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

/// Returns the nodes and replicas that shall have no ranks after a change. A replica that ends or starts
/// on the way is not drained: another one may get its id later.
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
