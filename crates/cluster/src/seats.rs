//! The replicas as the front door knows them, and which one a request goes to.

use std::sync::OnceLock;

use dashmap::DashMap;
use playhouse_router::Policy;
use playhouse_types::{Epoch, GenerateRequest, ReplicaId, RequestId};
use ractor::ActorRef;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backend::Backend;
use crate::clock::Clock;
use crate::deployment::StartError;
use crate::generation::Sink;
use crate::operation::Split;
use crate::parking::{ParkingMsg, Visit};
use crate::progress::Progress;
use crate::replica::ReplicaMsg;
use crate::routing::Routing;
use crate::status::{ReplicaState, ReplicaStatus};

/// Every replica there is, for the front door and for replicas that hand their requests over.
#[derive(Debug)]
pub(crate) struct Seats {
    seats: DashMap<ReplicaId, Seat>,
    /// Where those wait whom nobody can serve. Set before there is anybody to park.
    parking: OnceLock<ActorRef<ParkingMsg>>,
    routing: Routing,
    clock: Clock,
}

/// One replica.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) id: ReplicaId,
    pub(crate) split: Split,
    pub(crate) backend: Backend,
    pub(crate) status: watch::Receiver<ReplicaStatus>,
}

// === impl Seat ===

impl Seat {
    /// Waits until it serves, or rests because an operator wants that: whether it serves.
    async fn settles(mut self) -> Result<bool, StartError> {
        let settled = |status: &ReplicaStatus| {
            !matches!(status.state, ReplicaState::Starting | ReplicaState::Restarting { .. })
        };
        // The sender lives in the replica, which publishes a state before it goes.
        let state = self.status.wait_for(settled).await.map(|status| status.state.clone());
        let reason = match state {
            Ok(ReplicaState::Serving) => return Ok(true),
            Ok(ReplicaState::Draining | ReplicaState::Drained) => return Ok(false),
            Ok(ReplicaState::Failed { reason }) => reason,
            _ => "it stopped".to_owned(),
        };
        Err(StartError::Replica { replica: self.id, reason })
    }
}

// === impl Seats ===

impl Seats {
    /// Nobody yet.
    pub(crate) fn new(routing: Routing) -> Self {
        let (seats, parking, clock) = (DashMap::new(), OnceLock::new(), Clock::start());
        Self { seats, parking, routing, clock }
    }

    /// One more replica that requests can go to.
    pub(crate) fn add(&self, seat: Seat) {
        self.seats.insert(seat.id, seat);
    }

    /// A replica has left. It had no requests any more.
    pub(crate) fn remove(&self, replica: ReplicaId) {
        self.seats.remove(&replica);
        self.routing.remove(replica);
    }

    /// Where to park, once.
    pub(crate) fn park_in(&self, parking: ActorRef<ParkingMsg>) {
        let _ = self.parking.set(parking);
    }

    /// Lets a request wait for a replica that serves. Its sink says already that it is parked.
    pub(crate) fn park(&self, visit: Visit, sink: Sink) {
        self.tell_parking(ParkingMsg::Park(visit, sink));
    }

    /// A replica serves: those who wait for one go there.
    pub(crate) fn wake_parked(&self) {
        self.tell_parking(ParkingMsg::Serving);
    }

    /// A parking that is gone drops the message: a sink in it says so to its caller.
    fn tell_parking(&self, message: ParkingMsg) {
        if let Some(parking) = self.parking.get() {
            drop(parking.cast(message));
        }
    }

    /// The caller of a request has left; `home` has it, or else it is parked.
    pub(crate) fn cancel(&self, home: Option<ReplicaId>, id: RequestId) {
        match home {
            Some(replica) => self.cast(replica, ReplicaMsg::Cancel(id)),
            None => self.tell_parking(ParkingMsg::Cancel(id)),
        }
    }

    /// The time of all replicas: requests move between them.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// One replica.
    pub(crate) fn get(&self, replica: ReplicaId) -> Option<Seat> {
        self.seats.get(&replica).map(|seat| seat.clone())
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> Vec<Seat> {
        let mut seats: Vec<Seat> = self.seats.iter().map(|seat| seat.clone()).collect();
        seats.sort_by_key(|seat| seat.id);
        seats
    }

    /// Sends a message to a replica. A request for one that has left meanwhile is parked.
    pub(crate) fn cast(&self, replica: ReplicaId, message: ReplicaMsg) {
        let left = match self.get(replica) {
            Some(seat) => seat.backend.cast(message),
            None => Some(message),
        };
        let (visit, mut sink) = match left {
            Some(ReplicaMsg::Admit(request, terms, sink)) => {
                (Visit::New(request, terms, None), sink)
            }
            Some(ReplicaMsg::Adopt(moved, sink)) => (Visit::Moved(moved), sink),
            _ => return,
        };
        sink.move_to_parking();
        self.park(visit, sink);
    }

    /// One that always serves.
    pub(crate) fn only(backend: Backend) -> Self {
        let id = ReplicaId(0);
        let (_, status) = watch::channel(ReplicaStatus {
            id,
            state: ReplicaState::Serving,
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
        let seats = Self::new(routing);
        let split = Split { tensor: 1, pipeline: 1, partition: None };
        seats.add(Seat { id, split, backend, status });
        seats
    }

    /// Where a request goes, if somebody serves.
    pub(crate) fn pick(
        &self,
        request: &GenerateRequest,
        session: Option<&str>,
    ) -> Option<ReplicaId> {
        self.best(request, session, |_| true)
    }

    /// Where a request goes that its replica cannot serve now, if another can.
    pub(crate) fn pick_other(
        &self,
        request: &GenerateRequest,
        than: ReplicaId,
    ) -> Option<ReplicaId> {
        self.best(request, None, |id| id != than)
    }

    /// One that is as quick as ever, if there is one; one that makes progress, if there is one (**W-5**
    /// of `watchdog`). The last one is asked, whatever becomes of that (**G8**).
    fn best(
        &self,
        request: &GenerateRequest,
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
        self.seats.get(&id).is_some_and(|seat| suits(&seat.status.borrow()))
    }

    /// Whether a replica takes work.
    pub(crate) fn serves(&self, id: ReplicaId) -> bool {
        self.is(id, ReplicaStatus::serves)
    }

    /// What is the matter with the first replica, for a person who waits for any.
    pub(crate) fn why_nobody_serves(&self) -> String {
        let Some(seat) = self.all().into_iter().next() else {
            return "there is no replica".to_owned();
        };
        let how = match &seat.status.borrow().state {
            ReplicaState::Starting => "is starting".to_owned(),
            ReplicaState::Serving => "serves again".to_owned(),
            ReplicaState::Restarting { reason } => format!("restarts: {reason}"),
            ReplicaState::Failed { reason } => format!("failed: {reason}"),
            ReplicaState::Draining | ReplicaState::Drained => "was drained".to_owned(),
            ReplicaState::Stopped => "was stopped".to_owned(),
        };
        format!("{} {how}", seat.id)
    }

    /// Whether some replica serves, and something comes of that.
    pub(crate) fn any_serves(&self) -> bool {
        self.seats.iter().any(|seat| seat.status.borrow().is_healthy())
    }

    /// Waits until every replica serves.
    ///
    /// # Errors
    /// When one of them has failed.
    pub(crate) async fn all_serve(&self) -> Result<(), StartError> {
        for seat in self.all() {
            seat.settles().await?;
        }
        Ok(())
    }

    /// Waits until some replica serves, if any shall.
    ///
    /// # Errors
    /// When all of them have failed: why the last of them did.
    pub(crate) async fn one_serves(&self) -> Result<(), StartError> {
        let mut replicas: JoinSet<_> = self.all().into_iter().map(Seat::settles).collect();
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

    /// How each replica is.
    pub(crate) fn statuses(&self) -> Vec<ReplicaStatus> {
        self.all().iter().map(|seat| seat.status.borrow().clone()).collect()
    }
}
