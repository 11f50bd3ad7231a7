//! How a replica leaves the stage, and comes back.
//!
//! A drain goes: no new requests ([`ReplicaState::Draining`]); those without a seat go to others at
//! once, the rest finish, or go to others at the deadline; then no rank is left
//! ([`ReplicaState::Drained`]). Requests that nobody else can serve are parked.

use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::oneshot;
use tracing::info;

use super::{ReplicaMsg, State};
use crate::pipeline::Pipeline;
use crate::rank::{LossCause, RankStarter};
use crate::restart::RestartBudget;
use crate::status::ReplicaState;

/// What a replica needs to serve again.
pub(crate) struct Revival {
    pub(crate) starter: RankStarter,
    /// Dropped when the state of the replica says so.
    pub(crate) _begun: oneshot::Sender<()>,
}

/// What a replica is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// To serve.
    Serve,
    /// To end what it has.
    Drain,
    /// To wait until its ranks have ended.
    Vacate,
    /// Nothing, until it is revived.
    Rest,
}

// === impl State ===

impl State {
    /// Takes no more requests, and gives up the ranks when the last has ended or `deadline` has
    /// passed.
    pub(super) fn drain(&mut self, me: &ActorRef<ReplicaMsg>, deadline: Duration) {
        if matches!(self.duty, Duty::Vacate | Duty::Rest) {
            return;
        }
        info!(replica = %self.id, ?deadline, "draining");
        self.duty = Duty::Drain;
        self.cause = LossCause::Drain;
        self.report.state(ReplicaState::Draining);
        self.hand_over();
        let epoch = self.epoch;
        if self.pipeline.serves() && !deadline.is_zero() {
            me.send_after(deadline, move || ReplicaMsg::Overdue { epoch });
            self.vacate_if_idle(me);
        } else {
            self.vacate(me);
        }
    }

    /// The deadline of a drain has passed.
    pub(super) fn overdue(&mut self, me: &ActorRef<ReplicaMsg>) {
        if self.duty == Duty::Drain {
            self.vacate(me);
        }
    }

    /// Whether a drain is over is seen after every step.
    pub(super) fn vacate_if_idle(&mut self, me: &ActorRef<ReplicaMsg>) {
        let stats = self.scheduler.stats();
        let idle = stats.running + stats.waiting + stats.in_flight == 0;
        if self.duty == Duty::Drain && idle {
            self.vacate(me);
        }
    }

    /// Ends the ranks, and hands the requests over that are left.
    pub(super) fn vacate(&mut self, me: &ActorRef<ReplicaMsg>) {
        self.duty = Duty::Vacate;
        self.backoff = None;
        drop(self.end_epoch());
        let stages: Vec<_> = self.stages.drain(..).collect();
        for emission in self.scheduler.restart(self.epoch, false) {
            self.deliver(emission);
        }
        self.hand_over();
        let (me, epoch) = (me.clone(), self.epoch);
        tokio::spawn(async move {
            for stage in stages {
                // It has ended already, if that fails.
                drop(stage.stop_and_wait(None, None).await);
            }
            drop(me.cast(ReplicaMsg::Vacated { epoch }));
        });
    }

    /// No rank is left.
    pub(super) fn vacated(&mut self) {
        if self.duty == Duty::Vacate {
            self.duty = Duty::Rest;
            // What is left of the ranks ends: their processes, with the weights.
            self.starter = None;
            info!(replica = %self.id, "drained");
            self.report.state(ReplicaState::Drained);
        }
    }

    /// Serves again, with new ranks; or goes on, if the drain has not come that far. One that waits
    /// for the end of its ranks does so afterwards.
    pub(super) async fn revive(&mut self, me: &ActorRef<ReplicaMsg>, revival: Revival) {
        match self.duty {
            Duty::Drain => {
                self.duty = Duty::Serve;
                self.announce();
            }
            Duty::Rest => {
                self.duty = Duty::Serve;
                self.restarts = RestartBudget::new(self.id.0.into());
                self.starter = Some(revival.starter);
                self.report.revived(self.epoch);
                self.start(me).await;
            }
            Duty::Vacate => self.revival = Some(revival),
            Duty::Serve => {}
        }
    }

    /// Whatever carries the epoch that was is dropped from now on. Gives up the ports of its ranks,
    /// which ends them.
    pub(super) fn end_epoch(&mut self) -> Pipeline {
        self.watchdog.restart();
        self.report.ranks_lost();
        self.epoch.0 += 1;
        let pipeline = Pipeline::new(self.layout, self.concurrent_batches);
        std::mem::replace(&mut self.pipeline, pipeline)
    }
}
