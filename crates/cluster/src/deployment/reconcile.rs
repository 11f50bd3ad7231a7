//! The reconciler: carries out operations, one move after the other, and undoes what cannot be finished.
//!
//! - **RC-1** an operation always ends; if the task that carries it out panics, it ends as failed.
//! - **RC-2** an abort is seen at once, also while weights are read.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use playhouse_types::ReplicaId;
use ractor::ActorCell;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::fleet::Fleet;
use super::moves::{Move, moves};
use crate::ledger::{Drained, Ledger};
use crate::operation::{Change, Desired, OperationId, Phase};

/// The task that carries out an operation.
pub(crate) struct Reconciler {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) ledger: Arc<Ledger>,
    /// The supervisor of the replicas that are started.
    pub(crate) supervisor: ActorCell,
    pub(crate) id: OperationId,
    /// The state to restore if the operation fails.
    pub(crate) before: (Desired, Drained),
    /// The moves of the operation that were neither completed nor undone.
    pub(crate) traces: Traces,
}

#[derive(Default)]
pub(crate) struct Traces {
    started: Vec<ReplicaId>,
    drained: Vec<ReplicaId>,
    cordoned: Vec<String>,
}

/// The reason why an operation is not finished.
enum Stop {
    Aborted,
    Failed(String),
}

// === impl Reconciler ===

impl Reconciler {
    /// Makes the moves, and sees to it that the operation ends (**RC-1**).
    pub(crate) async fn carry_out(self, moves: Vec<Move>) {
        let (id, ledger) = (self.id, Arc::clone(&self.ledger));
        let work = AbortOnDropHandle::new(tokio::spawn(self.make_all(moves)));
        if let Err(why) = work.await {
            error!(operation = %id, %why, "an operation was not finished");
            let reason = "it was not finished: an error of the server, see its log".to_owned();
            drop(ledger.write(move |ledger| ledger.end(id, Phase::Failed { reason })).await);
        }
    }

    async fn make_all(mut self, moves: Vec<Move>) {
        let Some(aborted) = self.ledger.aborted(self.id) else { return };
        let mut outcome = Ok(());
        for step in moves {
            outcome = self.make(step, aborted.clone()).await;
            if outcome.is_err() {
                break;
            }
        }
        let end = match outcome {
            Ok(()) => Phase::Done,
            Err(stop) => {
                self.undo(&stop).await;
                match stop {
                    Stop::Aborted => Phase::Aborted,
                    Stop::Failed(reason) => Phase::Failed { reason },
                }
            }
        };
        info!(operation = %self.id, ?end, "operation ended");
        let id = self.id;
        drop(self.ledger.write(move |ledger| ledger.end(id, end)).await);
    }

    fn say(&self, phase: Phase, text: &str) {
        info!(operation = %self.id, "{text}");
        self.ledger.step(self.id, phase, text);
    }

    async fn make(&mut self, step: Move, aborted: watch::Receiver<bool>) -> Result<(), Stop> {
        if *aborted.borrow() {
            return Err(Stop::Aborted);
        }
        let text = step.to_string();
        match step {
            Move::Start { id, layout } => {
                self.say(Phase::Prepare, &text);
                let blueprint = unless(aborted.clone(), self.fleet.blueprint(layout)).await?;
                self.traces.started.push(id);
                let started = self.fleet.start(self.supervisor.clone(), id, &blueprint).await;
                started.map_err(Stop::Failed)?;
                unless(aborted, self.fleet.serving(id)).await?;
                self.say(Phase::Switch, &format!("{id} serves"));
            }
            Move::Revive { id } => {
                self.say(Phase::Prepare, &text);
                let blueprint = unless(aborted.clone(), self.fleet.blueprint_of(id)).await?;
                let revived = self.fleet.revive(&self.supervisor, id, &blueprint).await;
                revived.map_err(Stop::Failed)?;
                unless(aborted, self.fleet.serving(id)).await?;
                self.traces.drained.retain(|drained| *drained != id);
                self.say(Phase::Switch, &format!("{id} serves"));
            }
            Move::Drain { id, deadline } => {
                self.say(Phase::Retire, &text);
                self.traces.drained.push(id);
                self.fleet.drain(id, deadline);
                unless(aborted, self.fleet.drained(&self.supervisor, id)).await?;
            }
            Move::Remove { id } => {
                self.say(Phase::Retire, &text);
                self.traces.drained.retain(|drained| *drained != id);
                self.fleet.remove(id).await;
            }
            Move::Cordon { node, cordoned } => {
                self.say(Phase::Retire, &text);
                self.fleet.cordon(&node, cordoned);
                self.traces.cordoned.extend(Some(node).filter(|_| cordoned));
            }
            Move::Forget { node } => {
                self.say(Phase::Retire, &text);
                self.fleet.forget(&node);
            }
        }
        Ok(())
    }

    /// Undoes the operation as far as possible.
    async fn undo(&mut self, stop: &Stop) {
        let why = match stop {
            Stop::Aborted => "aborted",
            Stop::Failed(reason) => reason,
        };
        warn!(operation = %self.id, "undoing: {why}");
        self.say(Phase::Retire, &format!("undoing: {why}"));
        for node in std::mem::take(&mut self.traces.cordoned) {
            self.fleet.cordon(&node, false);
        }
        let (desired, drained) = self.before.clone();
        let written = self.ledger.write(move |ledger| {
            ledger.set_desired(desired).and_then(|()| ledger.set_drained(drained))
        });
        if let Ok(Err(why)) = written.await {
            self.say(Phase::Retire, &why.to_string());
        }
        // Their devices are needed for the replicas that come back; their requests stay until then.
        for id in std::mem::take(&mut self.traces.started) {
            self.fleet.drain(id, Duration::ZERO);
            self.tolerate(self.fleet.drained(&self.supervisor, id).await);
        }
        for id in std::mem::take(&mut self.traces.drained) {
            let revived = match self.fleet.blueprint_of(id).await {
                Ok(blueprint) => self.fleet.revive(&self.supervisor, id, &blueprint).await,
                Err(why) => Err(why),
            };
            self.tolerate(revived);
            self.tolerate(self.fleet.serving(id).await);
        }
        self.restore().await;
    }

    /// Restores the number of replicas and their layout.
    async fn restore(&mut self) {
        let Desired { replicas, layout } = self.before.0.clone();
        let change =
            Change::Deployment { replicas: Some(replicas), layout: Some(layout), force: true };
        let steps = match moves(&change, &self.before.0, &self.fleet.actual()) {
            Ok((_, steps)) => steps,
            Err(why) => return self.tolerate(Err(why.to_string())),
        };
        let (_sender, never) = watch::channel(false);
        for step in steps {
            if let Err(Stop::Failed(why)) = self.make(step, never.clone()).await {
                self.tolerate(Err(why));
            }
        }
    }

    fn tolerate(&self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.say(Phase::Retire, &why);
        }
    }
}

/// Waits for `what`, until an operator aborts the operation.
async fn unless<T>(
    mut aborted: watch::Receiver<bool>,
    what: impl Future<Output = Result<T, String>>,
) -> Result<T, Stop> {
    tokio::select! {
        biased;
        done = what => done.map_err(Stop::Failed),
        Ok(_) = aborted.wait_for(|aborted| *aborted) => Err(Stop::Aborted),
    }
}
