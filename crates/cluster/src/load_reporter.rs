//! [`LoadReporter`]: what a replica tells the router.

use playhouse_router::{Applied, Load, Router};
use playhouse_scheduler::{Scheduler, Stats};
use playhouse_types::{Epoch, PrefixEvent, ReplicaId};

use crate::replicas::Routing;

/// The reports of one replica to the router.
#[derive(Debug)]
pub(crate) struct LoadReporter {
    routing: Routing,
    replica: ReplicaId,
    epoch: Epoch,
    /// The sequence number of the next event.
    sequence: u64,
    /// The number of requests enqueued so far.
    accepted: u64,
}

// === impl LoadReporter ===

impl LoadReporter {
    /// Creates the reporter of a replica that has nothing to tell yet.
    pub(crate) fn new(routing: Routing, replica: ReplicaId) -> Self {
        Self { routing, replica, epoch: Epoch::default(), sequence: 0, accepted: 0 }
    }

    /// Counts a request that was enqueued, or refused for good.
    pub(crate) fn accepted(&mut self) {
        self.accepted += 1;
    }

    /// Tells the router what has changed since the last time: the prefix cache and the load.
    pub(crate) fn tell(&mut self, epoch: Epoch, scheduler: &mut Scheduler, stats: &Stats) {
        let events = scheduler.take_prefix_events();
        if epoch != self.epoch {
            (self.epoch, self.sequence) = (epoch, 0);
        }
        if !self.routing.has_choice() {
            // When another replica is added the router finds a gap, and asks for everything.
            self.sequence += events.len() as u64;
            return;
        }
        let routing = self.routing.clone();
        let mut router = routing.router();
        if self.apply(&mut router, &events) == Applied::Gap {
            self.apply(&mut router, &scheduler.prefix_snapshot());
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let load = Load {
            accepted: self.accepted,
            queued_tokens: scheduler.tokens_left() as u64,
            running: number(stats.running),
            waiting: number(stats.waiting),
            kv_used_blocks: number(stats.kv.held),
            kv_total_blocks: number(stats.kv.total),
        };
        router.report(self.replica, load);
    }

    fn apply(&mut self, router: &mut Router, events: &[PrefixEvent]) -> Applied {
        let mut last = Applied::Applied;
        for event in events {
            last = router.apply(self.replica, self.epoch, self.sequence, event);
            self.sequence += 1;
        }
        last
    }
}
