//! Recovery: a replica that has lost ranks finds out whether requests are to blame, hands them over, and
//! starts all ranks again in a higher epoch, or gives up.

use std::sync::Arc;
use std::time::Duration;

use playhouse_layout::RankId;
use playhouse_types::Epoch;
use ractor::ActorRef;
use tokio::time::{sleep, timeout};
use tracing::{error, warn};

use super::State;
use super::leaving::Duty;
use crate::mail::ReplicaMsg;
use crate::rank::{Loss, LossCause, place};
use crate::restart::Verdict;
use crate::status::ReplicaState;
use crate::watchdog::Overdue;

/// How long after the first loss of an epoch the others may come in. When one of several ranks dies of a
/// step, the others lose it, and either loss may be heard first.
const VERDICT: Duration = Duration::from_millis(10);

/// How long a rank that found no device waits before it looks again.
const NO_DEVICE_BACKOFF: Duration = Duration::from_millis(500);

/// How long the ranks of earlier epochs may take to end before the next epoch starts beside them
/// (**R-3** of `replica`). Processes do not overlap all the same: each waits for its predecessor.
const OLD_RANKS_MAX: Duration = Duration::from_secs(5);

/// The number of deaths that convict a request (**S-9** of the scheduler).
const DEATHS_OF_GUILTY: usize = 3;

/// The next act of a replica when the requests of a lost epoch have been handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing was lost.
    Nothing,
    /// The next epoch starts after this time.
    Restart(Duration),
    /// The replica has failed, and looks after this time whether another replica serves.
    Failed(Duration),
}

// === impl State ===

impl State {
    /// Handles a rank that has broken the contract of plans and outcomes. Requests are blamed for that
    /// as for a death, because one of them may have caused it.
    pub(super) fn broken(&mut self, me: &ActorRef<ReplicaMsg>, rank: RankId, why: &str) {
        let place = place(&self.map, rank.index);
        let reason = format!("{place} broke the contract of its engine: {why}");
        self.died_of_step = Some(self.epoch);
        self.restart_all(me, &Loss { reason, cause: LossCause::Step });
    }

    /// Looks for a step that is overdue: its rank hangs, and the replica restarts (**C-8**). Requests
    /// are blamed for that as for a death, because their step may hang again.
    pub(super) fn look(&mut self, me: &ActorRef<ReplicaMsg>) {
        self.watched = false;
        self.measure_step_under_way();
        let now = self.now();
        if let Some(Overdue { tokens, silence }) = self.watchdog.look(now) {
            let (ranks, first) = self.pipeline.abort_hung();
            let others = match ranks {
                0 | 1 => String::new(),
                _ => format!(" and {} that may wait for it", ranks - 1),
            };
            let reason = format!(
                "hung: {first}{others} did not run a step of {tokens} tokens \
                 within {silence:.1?}"
            );
            self.report.hung(silence);
            self.died_of_step = Some(self.epoch);
            self.restart_all(me, &Loss { reason, cause: LossCause::Hang });
        }
    }

    /// Restarts all ranks in a higher epoch (**C-5**), unless that was tried too often. A rank without a
    /// device waits for one, however often.
    pub(super) fn restart_all(&mut self, me: &ActorRef<ReplicaMsg>, loss: &Loss) {
        match self.duty {
            Duty::Serve => {}
            Duty::Drain => return self.vacate(me),
            // Its ranks are ending.
            Duty::Vacate | Duty::Rest => return,
        }
        // Ends the ranks that live, once the dead one has ended their groups.
        self.report.ranks_lost();
        drop(self.end_epoch());
        let (now, reason) = (self.now(), &loss.reason);
        self.cause = loss.cause;
        let verdict = match loss.cause {
            LossCause::NoDevice => {
                self.restarts.waits(now);
                Verdict::Restart(NO_DEVICE_BACKOFF)
            }
            LossCause::Step
            | LossCause::Hang
            | LossCause::Outside
            | LossCause::Drain
            | LossCause::Slow => self.restarts.lost(now),
        };
        self.next = match verdict {
            Verdict::Restart(backoff) => {
                warn!(replica = %self.id, epoch = %self.epoch, reason, ?backoff, "restarting");
                self.report.restarted(self.epoch, loss.cause, reason);
                Next::Restart(backoff)
            }
            Verdict::GiveUp(retry) => {
                error!(replica = %self.id, reason, ?retry, "replica failed: restart budget spent");
                self.report.state(ReplicaState::Failed { reason: reason.clone() });
                Next::Failed(retry)
            }
        };
        self.verdict = Some(self.timers.set(me, sleep(VERDICT), ReplicaMsg::Recover));
    }

    /// Takes the requests back from the ranks of the lost epoch, and hands them over.
    pub(super) fn recover(&mut self, me: &ActorRef<ReplicaMsg>) {
        let lost = Epoch(self.epoch.0.saturating_sub(1));
        let of_step = self.died_of_step == Some(lost);
        let steps = self.scheduler.stats().steps;
        let convicted = self.scheduler.restart(self.epoch, of_step);
        // A replica that computes nothing at all between deaths is sick itself.
        if !convicted.is_empty() && steps > self.steps_at_conviction {
            self.restarts.refund(DEATHS_OF_GUILTY);
        }
        if !convicted.is_empty() {
            self.steps_at_conviction = steps;
        }
        for emission in convicted {
            self.deliver(emission);
        }
        self.hand_over();
        self.set_next(me);
    }

    fn set_next(&mut self, me: &ActorRef<ReplicaMsg>) {
        let (ranks, epoch) = (Arc::clone(&self.ranks), self.epoch);
        self.restart = match self.next {
            Next::Nothing => None,
            Next::Restart(backoff) => {
                let hangs = self.cause == LossCause::Hang;
                let patience = if hangs { Duration::ZERO } else { OLD_RANKS_MAX };
                let ready = async move {
                    sleep(backoff).await;
                    // Past that, the new ones start beside them.
                    drop(timeout(patience, ranks.ended_before(epoch)).await);
                };
                Some(self.timers.set(me, ready, ReplicaMsg::Restart))
            }
            Next::Failed(retry) => {
                // C-9: the ranks hold nothing meanwhile.
                let ready = async move {
                    tokio::join!(sleep(retry), ranks.gone());
                };
                Some(self.timers.set(me, ready, ReplicaMsg::Restart))
            }
        };
    }

    /// Starts the ranks of an epoch, or tries again later. A replica that has failed starts only while
    /// no other serves (**RB-3** of `restart`).
    pub(super) async fn start_or_wait(&mut self, me: &ActorRef<ReplicaMsg>) {
        if let Next::Failed(_) = self.next {
            if self.replicas.another_serves(self.id) {
                return self.set_next(me);
            }
            self.report.revived(self.epoch);
        }
        self.start(me).await;
    }

    /// Starts the ranks of an epoch.
    pub(super) async fn start(&mut self, me: &ActorRef<ReplicaMsg>) {
        self.next = Next::Nothing;
        if let Err(why) = self.start_stages(me).await {
            self.restart_all(me, &Loss::no_device(why.to_string()));
        }
    }
}
