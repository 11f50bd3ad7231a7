//! The replicas as the front door knows them, and which one a request goes to.

use playhouse_types::{Epoch, ReplicaId};
use tokio::sync::watch;

use crate::backend::Backend;
use crate::deployment::StartError;
use crate::status::{ReplicaState, ReplicaStatus};

/// Every replica there is.
#[derive(Debug)]
pub(crate) struct Seats {
    seats: Vec<Seat>,
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
    pub(crate) fn new(seats: Vec<Seat>) -> Self {
        Self { seats }
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
        Self::new(vec![Seat { id, backend, status }])
    }

    /// Where a request goes: to a replica that serves, or waits in one that will.
    ///
    /// # Errors
    /// When every replica has failed: why one of them did.
    pub(crate) fn pick(&self) -> Result<&Backend, String> {
        let load = |seat: &&Seat| {
            let status = seat.status.borrow();
            let rank = match status.state {
                ReplicaState::Serving => 0,
                ReplicaState::Starting | ReplicaState::Restarting { .. } => 1,
                ReplicaState::Failed { .. } | ReplicaState::Stopped => return None,
            };
            Some((rank, status.running + status.waiting))
        };
        let seats = self.seats.iter().filter_map(|seat| Some((load(&seat)?, seat)));
        let best = seats.min_by_key(|(load, _)| *load);
        best.map(|(_, seat)| &seat.backend).ok_or_else(|| self.why_failed())
    }

    fn why_failed(&self) -> String {
        let reason = |seat: &Seat| match &seat.status.borrow().state {
            ReplicaState::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        self.seats.iter().find_map(reason).unwrap_or_else(|| "it was stopped".to_owned())
    }

    /// Whether some replica serves.
    pub(crate) fn any_serves(&self) -> bool {
        self.seats.iter().any(|seat| seat.status.borrow().state == ReplicaState::Serving)
    }

    /// Waits until every replica serves.
    ///
    /// # Errors
    /// When one of them has failed.
    pub(crate) async fn all_serve(&self) -> Result<(), StartError> {
        let settled = |status: &ReplicaStatus| {
            !matches!(status.state, ReplicaState::Starting | ReplicaState::Restarting { .. })
        };
        for seat in &self.seats {
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
        self.seats.iter().map(|seat| seat.status.borrow().clone()).collect()
    }
}
