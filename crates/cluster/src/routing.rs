//! The router, shared by the front door that asks it and the replicas that report to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use playhouse_kvcache::BlockHash;
use playhouse_router::{Applied, Ask, Load, Policy, Router};
use playhouse_scheduler::{HashedRequest, Scheduler, Stats};
use playhouse_types::{Epoch, PrefixEvent, ReplicaId};

/// A shared router. Cheap to clone. Every use is short: a lock and one call of a pure function.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    router: Arc<Mutex<Router>>,
    /// The number of replicas. With one replica there is nothing to choose and nothing to tell.
    replicas: Arc<AtomicUsize>,
}

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

// === impl Routing ===

impl Routing {
    /// Creates a router that knows no replica.
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        Self { router: Arc::new(Mutex::new(Router::new(policy, seed))), replicas: Arc::default() }
    }

    /// Adds a replica that was not known before.
    pub(crate) fn add(&self, replica: ReplicaId) {
        self.router().add(replica);
        self.replicas.fetch_add(1, Ordering::SeqCst);
    }

    /// Forgets a replica.
    pub(crate) fn remove(&self, replica: ReplicaId) {
        self.router().remove(replica);
        self.replicas.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns the number of replicas.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.load(Ordering::SeqCst)
    }

    fn has_choice(&self) -> bool {
        self.replicas() > 1
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock()
    }

    /// Picks the replica for a request, among those that are eligible.
    pub(crate) fn pick(
        &self,
        asked: &HashedRequest,
        session: Option<&str>,
        eligible: impl Fn(ReplicaId) -> bool,
    ) -> Option<ReplicaId> {
        let names = if self.has_choice() { asked.hashes() } else { &[] };
        let hashes: Vec<u64> = names.iter().map(BlockHash::short).collect();
        let tokens = u32::try_from(asked.request.prompt.len()).unwrap_or(u32::MAX);
        let ask = Ask { hashes: &hashes, block_size: asked.block_size(), tokens, session };
        self.router().pick(&ask, eligible).map(|pick| pick.replica)
    }

    pub(crate) fn load_reporter(&self, replica: ReplicaId) -> LoadReporter {
        let routing = self.clone();
        LoadReporter { routing, replica, epoch: Epoch::default(), sequence: 0, accepted: 0 }
    }
}

// === impl LoadReporter ===

impl LoadReporter {
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
