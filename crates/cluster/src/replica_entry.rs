//! [`ReplicaEntry`]: a replica in the list of all.

use std::sync::Arc;

use playhouse_types::{ParallelSpec, ReplicaId};
use ractor::{ActorId, ActorRef, ActorStatus, MessagingErr};
use tokio::sync::watch;

use crate::departures::Departures;
use crate::live_ranks::LiveRanks;
use crate::mail::ReplicaMsg;
use crate::start_error::StartError;
use crate::status::{ReplicaState, ReplicaStatus};

/// One replica of the list.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaEntry {
    pub(crate) id: ReplicaId,
    pub(crate) layout: ParallelSpec,
    /// `None` in tests of the layers above, where no actor is asked.
    pub(crate) actor: Option<ActorRef<ReplicaMsg>>,
    pub(crate) status: watch::Receiver<ReplicaStatus>,
    /// The ranks of the replica, which outlive the actor.
    pub(crate) ranks: Arc<LiveRanks>,
    pub(crate) departures: Arc<Departures>,
}

// === impl ReplicaEntry ===

impl ReplicaEntry {
    /// Sends a message, or gives it back when the actor is gone.
    pub(crate) fn send(&self, message: ReplicaMsg) -> Option<ReplicaMsg> {
        match self.actor.as_ref()?.cast(message) {
            Err(MessagingErr::SendErr(message)) => Some(message),
            _ => None,
        }
    }

    /// Returns whether the actor takes messages. Otherwise the last state in its status is out of date.
    pub(crate) fn lives(&self) -> bool {
        self.actor.as_ref().is_none_or(|actor| actor.get_status() < ActorStatus::Draining)
    }

    /// Returns whether this actor is the replica's.
    pub(crate) fn is(&self, actor: ActorId) -> bool {
        self.actor.as_ref().is_some_and(|own| own.get_id() == actor)
    }

    /// Returns the replica's state, also when its actor is gone and has not said so yet.
    pub(crate) fn state(&self) -> ReplicaState {
        let state = self.status.borrow().state.clone();
        match state {
            ReplicaState::Failed { .. } | ReplicaState::Stopped => state,
            _ if self.lives() => state,
            _ => ReplicaState::Failed { reason: "its actor failed".to_owned() },
        }
    }

    pub(crate) fn suits(&self, suits: impl Fn(&ReplicaStatus) -> bool) -> bool {
        self.lives() && suits(&self.status.borrow())
    }

    /// Waits until the replica serves, or rests because an operator wants that. Returns whether it
    /// serves.
    pub(crate) async fn settles(mut self) -> Result<bool, StartError> {
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
