//! Drain and revival: how a replica stops to serve, and serves again.
//!
//! A drain begins by refusing new requests ([`ReplicaState::Draining`]). Requests without a slot go to
//! other replicas at once; the rest finish, or go to others at the deadline; then no rank is left
//! ([`ReplicaState::Drained`]). Requests that no other replica can serve are parked.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::sleep;
use tracing::info;

use super::State;
use super::pipeline::Pipeline;
use super::recovery::Next;
use crate::mail::{ReplicaMsg, Revival};
use crate::rank::LossCause;
use crate::restart::RestartBudget;
use crate::status::ReplicaState;

/// The duty of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// To serve.
    Serve,
    /// To end the requests that it has.
    Drain,
    /// To wait until its ranks have ended.
    Vacate,
    /// Nothing, until it is revived.
    Rest,
}

// === impl State ===

impl State {
    /// Takes no more requests, and gives up the ranks when the last request has ended or `deadline` has
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
        if self.pipeline.serves() && !deadline.is_zero() {
            // The timer dies with the drain: a later drain has a deadline of its own.
            self.overdue = Some(self.timers.set(me, sleep(deadline), ReplicaMsg::Overdue));
            self.vacate_if_idle(me);
        } else {
            self.vacate(me);
        }
    }

    /// Gives up the ranks if a drain is over. Called after every step.
    pub(super) fn vacate_if_idle(&mut self, me: &ActorRef<ReplicaMsg>) {
        let stats = self.scheduler.stats();
        let idle = stats.running + stats.waiting + stats.in_flight == 0;
        if self.duty == Duty::Drain && idle {
            self.vacate(me);
        }
    }

    /// Ends the ranks, and hands over the requests that are left.
    pub(super) fn vacate(&mut self, me: &ActorRef<ReplicaMsg>) {
        self.duty = Duty::Vacate;
        self.next = Next::Nothing;
        (self.overdue, self.verdict, self.restart) = (None, None, None);
        self.report.ranks_ended();
        drop(self.end_epoch());
        for emission in self.scheduler.restart(self.epoch, false) {
            self.deliver(emission);
        }
        self.hand_over();
        let ranks = Arc::clone(&self.ranks);
        let gone = async move { ranks.gone().await };
        self.vacated = Some(self.timers.set(me, gone, ReplicaMsg::Vacated));
    }

    /// Rests, because no rank is left (**A14**).
    pub(super) fn rest(&mut self) {
        self.duty = Duty::Rest;
        self.starter = None;
        info!(replica = %self.id, "drained");
        self.report.state(ReplicaState::Drained);
    }

    /// Serves again, with new ranks; or goes on, if the drain has not come that far. A replica that
    /// waits for the end of its ranks serves again afterwards.
    pub(super) async fn revive(&mut self, me: &ActorRef<ReplicaMsg>, revival: Revival) {
        match self.duty {
            Duty::Drain => {
                self.duty = Duty::Serve;
                self.overdue = None;
                self.announce();
            }
            Duty::Rest => {
                self.duty = Duty::Serve;
                self.restarts = RestartBudget::new(self.id.0.into(), self.patience);
                self.starter = Some(revival.starter);
                self.report.revived(self.epoch);
                self.start(me).await;
            }
            Duty::Vacate => {
                let reason = "its ranks have not ended yet".to_owned();
                self.report.state(ReplicaState::Restarting { reason });
                self.revival = Some(revival);
            }
            Duty::Serve => {}
        }
    }

    /// Ends the epoch, after the report has said why: messages that carry it are dropped from now on. Gives up
    /// the stages, and the ports of the ranks, which ends them;
    /// [`LiveRanks`](crate::live_ranks::LiveRanks) knows when they have ended.
    pub(super) fn end_epoch(&mut self) -> Pipeline {
        self.watchdog.restart();
        self.forget_slowness();
        self.epoch.0 += 1;
        self.stages.drain(..).for_each(|stage| stage.stop(None));
        let pipeline = Pipeline::new(Arc::clone(&self.map), self.concurrent_batches);
        std::mem::replace(&mut self.pipeline, pipeline)
    }
}
