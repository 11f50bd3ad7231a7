//! The replicas of a cluster, as the front door knows them, and the choice of a replica for each
//! request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};
use playhouse_kvcache::BlockHash;
use playhouse_router::{Ask, Policy, Router};
use playhouse_scheduler::HashedRequest;
use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, ParallelSpec, ReplicaId};
use ractor::ActorId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::awaited::Awaited;
use crate::clock::Clock;
use crate::live_ranks::LiveRanks;
use crate::mail::{Pending, ReplicaMsg, WaitingRoom};
use crate::outlier::Peers;
use crate::outlook::Outlook;
use crate::peer_paces::PeerPaces;
use crate::progress::Progress;
use crate::replica_entry::ReplicaEntry;
use crate::start_error::StartError;
use crate::status::{ReplicaState, ReplicaStatus};
use crate::tasks::Tasks;

/// The list of all replicas, for the front door and for replicas that hand their requests over.
#[derive(Debug)]
pub(crate) struct Replicas {
    entries: DashMap<ReplicaId, ReplicaEntry>,
    waiting: Arc<WaitingRoom>,
    routing: Routing,
    paces: PeerPaces,
    clock: Clock,
    outlook: Outlook,
}

/// A shared router. Cheap to clone. Every use is short: a lock and one call of a pure function.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    router: Arc<Mutex<Router>>,
    /// The number of replicas. With one replica there is nothing to choose and nothing to tell.
    replicas: Arc<AtomicUsize>,
}

// === impl Replicas ===

impl Replicas {
    /// Creates an empty list. A request is without a replica for `timeout` at most; `outlook` sees what
    /// keeps replicas from starting.
    pub(crate) fn new(
        routing: Routing,
        timeout: Duration,
        metrics: Arc<Metrics>,
        outlook: Outlook,
    ) -> Self {
        let clock = Clock::start();
        let waiting = Arc::new(WaitingRoom::new(timeout, clock, metrics));
        let paces = PeerPaces::default();
        Self { entries: DashMap::new(), waiting, routing, paces, clock, outlook }
    }

    /// Creates a list of one replica that always serves, in tests of the layers above.
    pub(crate) fn scripted() -> Self {
        let id = ReplicaId(0);
        let (_, status) = watch::channel(ReplicaStatus {
            id,
            state: ReplicaState::Serving,
            waits_for: None,
            progress: Progress::default(),
            epoch: Epoch(1),
            running: 0,
            waiting: 0,
            kv_blocks_held: 0,
            kv_blocks: 0,
            prefix_queried_tokens: 0,
            prefix_hit_tokens: 0,
            prefill_tokens: 0,
            generated_tokens: 0,
            stages: Vec::new(),
        });
        let routing = Routing::new(Policy::default(), 0);
        routing.add(id);
        let metrics = Arc::new(Metrics::new("scripted"));
        let replicas = Self::new(routing, Duration::ZERO, metrics, Outlook::default());
        replicas.add(ReplicaEntry {
            id,
            layout: ParallelSpec { tensor: 1, pipeline: 1, ..ParallelSpec::default() },
            actor: None,
            status,
            ranks: Arc::new(LiveRanks::new(Tasks::default())),
            departures: Arc::default(),
        });
        replicas
    }

    /// Adds a replica that requests can go to, or a new actor of a replica.
    pub(crate) fn add(&self, entry: ReplicaEntry) {
        self.entries.insert(entry.id, entry);
    }

    /// Removes a replica that has left.
    pub(crate) fn remove(&self, replica: ReplicaId) {
        self.entries.remove(&replica);
        self.routing.remove(replica);
        self.paces.forget(replica);
    }

    /// Lets a request wait for a replica that serves.
    pub(crate) fn park(&self, pending: Pending) {
        self.waiting.park(pending);
    }

    /// Wakes the parked requests, because a replica serves.
    pub(crate) fn wake_parked(&self) {
        self.waiting.wake();
    }

    /// Returns the waiting room, for requests that no replica can serve.
    pub(crate) fn waiting_room(&self) -> &Arc<WaitingRoom> {
        &self.waiting
    }

    /// Tells every holder of requests that a caller has closed its channel (**DE-1**).
    pub(crate) fn caller_left(&self) {
        let mut ids: Vec<_> = self.entries.iter().map(|entry| entry.id).collect();
        // Lives of a simulation shall not depend on how a map is made.
        ids.sort_unstable();
        for entry in ids.into_iter().filter_map(|id| self.entries.get(&id)) {
            if entry.departures.raise() {
                drop(entry.send(ReplicaMsg::CallersLeft));
            }
        }
        self.waiting.wake();
    }

    /// Returns the clock of all replicas, which is the same because requests move between them.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Returns the measured step times of each replica.
    pub(crate) fn paces(&self) -> &PeerPaces {
        &self.paces
    }

    /// Counts the other replicas that serve.
    pub(crate) fn peers(&self, than: ReplicaId) -> Peers {
        let mut peers = Peers::default();
        for entry in self.entries.iter().filter(|entry| entry.id != than) {
            if entry.suits(ReplicaStatus::is_quick) {
                peers.quick += 1;
            } else if entry.suits(ReplicaStatus::serves) {
                peers.slow += 1;
            }
        }
        peers
    }

    /// Returns a replica by its id.
    pub(crate) fn get(&self, replica: ReplicaId) -> Option<ReplicaEntry> {
        self.entries.get(&replica).map(|entry| entry.clone())
    }

    /// Returns the id of the replica that has this actor.
    pub(crate) fn of_actor(&self, actor: ActorId) -> Option<ReplicaId> {
        self.entries.iter().find(|entry| entry.is(actor)).map(|entry| entry.id)
    }

    /// Returns all replicas, ordered by id.
    pub(crate) fn all(&self) -> Vec<ReplicaEntry> {
        let mut entries: Vec<_> = self.entries.iter().map(|entry| entry.clone()).collect();
        entries.sort_by_key(|entry| entry.id);
        entries
    }

    /// Sends a request to a replica, or gives it back when the replica has left meanwhile.
    pub(crate) fn send(&self, replica: ReplicaId, pending: Pending) -> Option<Pending> {
        let Some(entry) = self.get(replica) else { return Some(pending) };
        match entry.send(ReplicaMsg::Take(pending))? {
            ReplicaMsg::Take(pending) => Some(pending),
            _ => None,
        }
    }

    /// Sends a request to a replica, or parks it when the replica has left meanwhile.
    pub(crate) fn send_or_park(&self, replica: ReplicaId, pending: Pending) {
        if let Some(pending) = self.send(replica, pending) {
            self.park(pending);
        }
    }

    /// Picks the replica for a request, if any replica serves.
    pub(crate) fn pick(&self, request: &HashedRequest, session: Option<&str>) -> Option<ReplicaId> {
        self.best(request, session, |_| true)
    }

    /// Picks another replica for a request that its own replica cannot serve now, if another can.
    pub(crate) fn pick_other(&self, request: &HashedRequest, than: ReplicaId) -> Option<ReplicaId> {
        self.best(request, None, |id| id != than)
    }

    /// Picks a replica that is as quick as ever, or else one that makes progress, or else any that
    /// serves (**W-5** of `watchdog`). A single replica is picked whatever its pace (**G8**).
    fn best(
        &self,
        request: &HashedRequest,
        session: Option<&str>,
        may: impl Fn(ReplicaId) -> bool,
    ) -> Option<ReplicaId> {
        let of = |suits: fn(&ReplicaStatus) -> bool| {
            self.routing.pick(request, session, |id| may(id) && self.is(id, suits))
        };
        let quick = of(ReplicaStatus::is_quick);
        quick.or_else(|| of(ReplicaStatus::is_healthy)).or_else(|| of(ReplicaStatus::serves))
    }

    fn is(&self, id: ReplicaId, suits: fn(&ReplicaStatus) -> bool) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.suits(suits))
    }

    /// Returns whether a replica takes work.
    pub(crate) fn serves(&self, id: ReplicaId) -> bool {
        self.is(id, ReplicaStatus::serves)
    }

    /// Returns whether another replica takes work.
    pub(crate) fn another_serves(&self, than: ReplicaId) -> bool {
        self.entries.iter().any(|it| it.id != than && it.suits(ReplicaStatus::serves))
    }

    /// Returns what the cluster waits for, while no replica can make progress.
    pub(crate) fn awaited(&self) -> Option<Awaited> {
        (!self.any_serves()).then(|| self.outlook.awaited(&self.statuses()))
    }

    /// Returns whether some replica serves and is not stalled.
    pub(crate) fn any_serves(&self) -> bool {
        self.entries.iter().any(|entry| entry.suits(ReplicaStatus::is_healthy))
    }

    /// Waits until no replica is in its first start.
    pub(crate) async fn all_started(&self) {
        for mut entry in self.all() {
            let started = |status: &ReplicaStatus| status.state != ReplicaState::Starting;
            drop(entry.status.wait_for(started).await);
        }
    }

    /// Waits until some replica serves. Returns at once if operators want none to serve.
    ///
    /// # Errors
    /// When all replicas have failed: why the last of them did.
    pub(crate) async fn one_serves(&self) -> Result<(), StartError> {
        let mut replicas: JoinSet<_> = self.all().into_iter().map(ReplicaEntry::settles).collect();
        let mut outcome = Ok(());
        while let Some(settled) = replicas.join_next().await {
            match settled {
                Ok(Ok(true)) => return Ok(()),
                Ok(Err(why)) => outcome = Err(why),
                Ok(Ok(false)) | Err(_) => {}
            }
        }
        outcome
    }

    /// Returns the status of each replica.
    pub(crate) fn statuses(&self) -> Vec<ReplicaStatus> {
        let status = |entry: &ReplicaEntry| {
            let mut status = entry.status.borrow().clone();
            status.state = entry.state();
            status
        };
        self.all().iter().map(status).collect()
    }
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

    /// Returns whether there is more than one replica to choose from.
    pub(crate) fn has_choice(&self) -> bool {
        self.replicas() > 1
    }

    /// Locks the router.
    pub(crate) fn router(&self) -> MutexGuard<'_, Router> {
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
}
