//! Parking: where requests wait that no replica can serve.
//!
//! - **P-1** a parked request goes to the first replica that serves, in the order in which they were
//!   parked (**G1**).
//! - **P-2** no request is parked for longer than the timeout at a stretch; then it ends as unserved,
//!   with the reason why nobody serves. One whose own deadline comes first expires then.
//! - **P-3** a caller that leaves takes its parked request along, permits and all (**G5**).
//! - **P-4** what is parked is bounded, because every request here has a permit of the house (**C-2**).
//!
//! Nothing is polled: replicas say when they serve, and one timer is set for the first deadline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Evacuee, Terms};
use playhouse_telemetry::Metrics;
use playhouse_types::{Emission, FinishReason, GenerateRequest, RequestId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::warn;

use crate::generation::Sink;
use crate::replica::ReplicaMsg;
use crate::seats::Seats;

pub(crate) struct Parking;

pub(crate) struct ParkingArgs {
    pub(crate) seats: Arc<Seats>,
    pub(crate) timeout: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

pub(crate) enum ParkingMsg {
    /// Nobody can serve this now.
    Park(Visit, Sink),
    /// The caller left.
    Cancel(RequestId),
    /// A replica serves.
    Serving,
    /// A deadline has passed.
    Expire,
}

/// A request on its way to a replica.
pub(crate) enum Visit {
    /// It has not been anywhere. With its session, which may matter to where it goes.
    New(GenerateRequest, Terms, Option<Box<str>>),
    /// A replica has given it up.
    Moved(Box<Evacuee>),
}

struct Parked {
    visit: Visit,
    sink: Sink,
    /// When it ends as unserved.
    leaves: Duration,
}

pub(crate) struct Lot {
    /// In order of arrival.
    parked: VecDeque<Parked>,
    /// When the next timer fires: no later than the first deadline.
    timer: Option<Duration>,
    seats: Arc<Seats>,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

// === impl Visit ===

impl Visit {
    pub(crate) fn request(&self) -> &GenerateRequest {
        match self {
            Self::New(request, ..) => request,
            Self::Moved(moved) => moved.request(),
        }
    }

    pub(crate) fn session(&self) -> Option<&str> {
        match self {
            Self::New(.., session) => session.as_deref(),
            Self::Moved(_) => None,
        }
    }

    /// From when on nobody waits for it to begin.
    fn deadline(&self) -> Option<Duration> {
        match self {
            Self::New(_, terms, _) => terms.deadline,
            Self::Moved(moved) => moved.deadline(),
        }
    }

    /// How a replica is asked to take it.
    pub(crate) fn message(self, sink: Sink) -> ReplicaMsg {
        match self {
            Self::New(request, terms, _) => ReplicaMsg::Admit(request, terms, sink),
            Self::Moved(moved) => ReplicaMsg::Adopt(moved, sink),
        }
    }
}

// === impl Parking ===

impl Actor for Parking {
    type Msg = ParkingMsg;
    type State = Lot;
    type Arguments = ParkingArgs;

    async fn pre_start(
        &self,
        _: ActorRef<ParkingMsg>,
        args: ParkingArgs,
    ) -> Result<Lot, ActorProcessingErr> {
        let ParkingArgs { seats, timeout, metrics } = args;
        Ok(Lot { parked: VecDeque::new(), timer: None, seats, timeout, metrics })
    }

    async fn handle(
        &self,
        me: ActorRef<ParkingMsg>,
        message: ParkingMsg,
        lot: &mut Lot,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ParkingMsg::Park(visit, sink) => lot.park(&me, visit, sink),
            ParkingMsg::Cancel(id) => lot.parked.retain(|one| one.visit.request().id != id),
            ParkingMsg::Serving => lot.place_all(),
            ParkingMsg::Expire => lot.expire(&me),
        }
        lot.count();
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ParkingMsg>,
        lot: &mut Lot,
    ) -> Result<(), ActorProcessingErr> {
        let left = std::mem::take(&mut lot.parked);
        lot.count();
        for one in left {
            one.end(FinishReason::Draining);
        }
        Ok(())
    }
}

// === impl Lot ===

impl Lot {
    fn park(&mut self, me: &ActorRef<ParkingMsg>, visit: Visit, sink: Sink) {
        // Its caller's cancellation may have gone to the replica it comes from.
        if sink.is_abandoned() {
            return;
        }
        let parked = Parked { visit, sink, leaves: self.seats.clock().now() + self.timeout };
        // Somebody may have begun to serve since it was sent here.
        if let Some(parked) = self.place(parked) {
            self.set_timer(me, parked.deadline());
            self.parked.push_back(parked);
        }
    }

    fn place_all(&mut self) {
        while let Some(first) = self.parked.pop_front() {
            if let Some(first) = self.place(first) {
                return self.parked.push_front(first);
            }
        }
    }

    /// Sends a request to a replica; gives it back when nobody serves.
    fn place(&self, parked: Parked) -> Option<Parked> {
        let visit = &parked.visit;
        let Some(replica) = self.seats.pick(visit.request(), visit.session()) else {
            return Some(parked);
        };
        let Parked { visit, mut sink, .. } = parked;
        // Whoever sees it end finds it gone from the metrics.
        self.count();
        sink.move_to(replica);
        self.seats.cast(replica, visit.message(sink));
        None
    }

    fn count(&self) {
        self.metrics.requests_parked.set(self.parked.len() as i64);
    }

    /// Ends whoever has waited long enough.
    fn expire(&mut self, me: &ActorRef<ParkingMsg>) {
        let now = self.seats.clock().now();
        let waits = |one: &Parked| one.leaves > now && one.deadline() > now;
        let (waiting, over): (VecDeque<_>, VecDeque<_>) = self.parked.drain(..).partition(waits);
        self.parked = waiting;
        // Whoever sees one end finds it gone from the metrics.
        self.count();
        for one in over {
            if one.leaves <= now {
                let (seconds, why) = (self.timeout.as_secs_f32(), self.seats.why_nobody_serves());
                warn!(request = %one.visit.request().id, why, "no replica served in time");
                let why = format!("no replica could serve it within {seconds} s: {why}");
                one.end(FinishReason::Unserved(why));
            } else {
                one.end(FinishReason::Expired);
            }
        }
        self.timer = self.timer.filter(|timer| *timer > now);
        if let Some(next) = self.parked.iter().map(Parked::deadline).min() {
            self.set_timer(me, next);
        }
    }

    /// Sees to it that somebody looks at `deadline`. Timers that are not needed any more do no harm.
    fn set_timer(&mut self, me: &ActorRef<ParkingMsg>, deadline: Duration) {
        if self.timer.is_none_or(|timer| deadline < timer) {
            let wait = deadline.saturating_sub(self.seats.clock().now());
            me.send_after(wait, || ParkingMsg::Expire);
            self.timer = Some(deadline);
        }
    }
}

// === impl Parked ===

impl Parked {
    /// When somebody has to look at it.
    fn deadline(&self) -> Duration {
        self.visit.deadline().map_or(self.leaves, |deadline| deadline.min(self.leaves))
    }

    fn end(self, reason: FinishReason) {
        let finish = Some(reason);
        let id = self.visit.request().id;
        let (cached_tokens, prompt_logprobs) = (0, Vec::new());
        self.sink.finish(Emission { id, cached_tokens, prompt_logprobs, token: None, finish });
    }
}
