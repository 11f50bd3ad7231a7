//! The replicas as the front door knows them, and which one a request goes to.

use std::sync::OnceLock;

use playhouse_router::Policy;
use playhouse_types::{Epoch, GenerateRequest, ReplicaId};
use tokio::sync::watch;

use crate::backend::Backend;
use crate::deployment::StartError;
use crate::replica::ReplicaMsg;
use crate::routing::Routing;
use crate::status::{ReplicaState, ReplicaStatus};

/// Every replica there is, for the front door and for replicas that hand their requests over.
#[derive(Debug)]
pub(crate) struct Seats {
    /// In the order of their ids, from 0. Set once all of them have been started.
    seats: OnceLock<Vec<Seat>>,
    routing: Routing,
}

/// One replica.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: ReplicaId,
    pub(crate) backend: Backend,
    pub(crate) status: watch::Receiver<ReplicaStatus>,
}

// === impl Seats ===

impl Seats {
    /// Nobody yet.
    pub(crate) fn new(routing: Routing) -> Self {
        Self { seats: OnceLock::new(), routing }
    }

    /// Everybody, once.
    pub(crate) fn fill(&self, seats: Vec<Seat>) {
        let _ = self.seats.set(seats);
    }

    fn seats(&self) -> &[Seat] {
        self.seats.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Sends a message to a replica.
    pub(crate) fn cast(&self, replica: ReplicaId, message: ReplicaMsg) {
        if let Some(seat) = self.seats().get(replica.0 as usize) {
            seat.backend.cast(message);
        }
    }

    /// One that always serves.
    pub(crate) fn only(backend: Backend) -> Self {
        let id = ReplicaId(0);
        let (_, status) = watch::channel(ReplicaStatus {
            id,
            state: ReplicaState::Serving,
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
        let seats = Self::new(Routing::new(Policy::default(), 0, 1));
        seats.fill(vec![Seat { id, backend, status }]);
        seats
    }

    /// Where a request goes: to a replica that serves, or waits in one that will.
    ///
    /// # Errors
    /// When every replica has failed: why one of them did.
    pub(crate) fn pick(
        &self,
        request: &GenerateRequest,
        session: Option<&str>,
    ) -> Result<ReplicaId, String> {
        let will_serve = |id: ReplicaId| {
            let state = &self.seats()[id.0 as usize].status.borrow().state;
            matches!(state, ReplicaState::Starting | ReplicaState::Restarting { .. })
        };
        let picked = self.routing.pick(request, session, |id| self.serves(id));
        let picked = picked.or_else(|| self.routing.pick(request, session, will_serve));
        picked.ok_or_else(|| self.why_failed())
    }

    /// Where a request goes that its replica cannot serve now, if another can.
    pub(crate) fn pick_other(
        &self,
        request: &GenerateRequest,
        than: ReplicaId,
    ) -> Option<ReplicaId> {
        self.routing.pick(request, None, |id| id != than && self.serves(id))
    }

    fn serves(&self, id: ReplicaId) -> bool {
        let seat = self.seats().get(id.0 as usize);
        seat.is_some_and(|seat| seat.status.borrow().state == ReplicaState::Serving)
    }

    fn why_failed(&self) -> String {
        let reason = |seat: &Seat| match &seat.status.borrow().state {
            ReplicaState::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        self.seats().iter().find_map(reason).unwrap_or_else(|| "it was stopped".to_owned())
    }

    /// Whether some replica serves.
    pub(crate) fn any_serves(&self) -> bool {
        self.seats().iter().any(|seat| seat.status.borrow().state == ReplicaState::Serving)
    }

    /// Waits until every replica serves.
    ///
    /// # Errors
    /// When one of them has failed.
    pub(crate) async fn all_serve(&self) -> Result<(), StartError> {
        let settled = |status: &ReplicaStatus| {
            !matches!(status.state, ReplicaState::Starting | ReplicaState::Restarting { .. })
        };
        for seat in self.seats() {
            let mut status = seat.status.clone();
            // The sender lives in the replica, which publishes a state before it goes.
            let state = status.wait_for(settled).await.map(|status| status.state.clone());
            let reason = match state {
                Ok(ReplicaState::Serving) => continue,
                Ok(ReplicaState::Failed { reason }) => reason,
                _ => "it stopped".to_owned(),
            };
            return Err(StartError::Replica { replica: seat.id, reason });
        }
        Ok(())
    }

    /// How each replica is.
    pub(crate) fn statuses(&self) -> Vec<ReplicaStatus> {
        self.seats().iter().map(|seat| seat.status.borrow().clone()).collect()
    }
}
