//! The reaction of a replica that is several times slower than its peers: it gives its requests to them.

use ractor::ActorRef;
use tokio::time::sleep;
use tracing::{info, warn};

use super::State;
use super::leaving::Duty;
use crate::mail::ReplicaMsg;
use crate::rank::LossCause;

// === impl State ===

impl State {
    /// Counts the time of the step under way, so that a step that does not end is seen as slow.
    pub(super) fn measure_step_under_way(&mut self) {
        let now = self.now();
        if let Some((work, took)) = self.watchdog.oldest(now) {
            let peers = self.replicas.paces().expected(self.id, work);
            self.slowness.under_way(took, peers, now);
        }
    }

    /// Gives all requests to others if this replica is an outlier (**OL-1** to **OL-3** of `outlier`).
    /// Its ranks go on: what they still compute of those requests is not read.
    pub(super) fn eject_if_slow(&mut self, me: &ActorRef<ReplicaMsg>) {
        if self.duty != Duty::Serve || !self.pipeline.serves() {
            return;
        }
        let now = self.now();
        let Some(times) = self.slowness.ejects(self.replicas.peers(self.id), now) else { return };
        let away = self.slowness.ejected_for(now);
        warn!(replica = %self.id, "its steps take {times:.0} times what others take: for {away:.0?} others get its requests");
        self.report.slower_than_peers(Some(times as u32));
        self.readmission = Some(self.timers.set(me, sleep(away), ReplicaMsg::Readmit));
        self.cause = LossCause::Slow;
        self.scheduler.vacate_all();
        self.hand_over();
    }

    /// Readmits the replica: it is tried again.
    pub(super) fn readmit(&mut self) {
        info!(replica = %self.id, "it is tried again after it was slow");
        self.report.slower_than_peers(None);
        self.replicas.wake_parked();
    }

    /// Forgets what was measured, because the ranks are lost.
    pub(super) fn forget_slowness(&mut self) {
        self.slowness.restart();
        self.replicas.paces().forget(self.id);
    }
}
