//! The sink: the cluster's end of a request, to which its emissions go.
//!
//! - **GE-1** the closed channel is the cancellation: any holder of the sink sees that its caller has
//!   left, and need not be told which request that is (**C-4**).
//! - **GE-2** a request is where its sink is. A sink that is dropped before the end of its request, with a
//!   replica that panics or in the mailbox of one that is gone, brings the request back to the waiting
//!   room, with all that its caller has seen (**C-1**).

use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Emitted, HashedRequest, Terms};
use playhouse_types::{Emission, FinishReason, ReplicaId};
use tokio::sync::mpsc;

use super::home::Home;
use super::pending::Pending;
use super::waiting_room::WaitingRoom;
use crate::admission::Place;
use crate::journey::Journey;

/// The number of replicas that may be lost with a request before the request is to blame for that.
const LOSSES_MAX: u32 = 3;

/// The sink of one request's emissions. It holds the request's place, which is free again when the
/// replica is done with the request, not when the caller stops listening (**C-2**).
#[derive(Debug)]
pub(crate) struct Sink(Option<Box<OpenRequest>>);

/// The parts of a request until its end.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) emissions: mpsc::UnboundedSender<Emission>,
    pub(crate) place: Place,
    pub(crate) home: Home,
    /// The spans of the request, if it is traced.
    pub(crate) journey: Option<Box<Journey>>,
    pub(crate) asked: Asked,
    /// Everything that the caller has been sent.
    pub(crate) emitted: Emitted,
    /// When the request ends as unserved, if it has been without a replica since its last token.
    pub(crate) unserved_at: Option<Duration>,
    /// The waiting room that takes the request back if its sink is dropped.
    pub(crate) waiting: Arc<WaitingRoom>,
}

/// A caller's request, with its terms.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: HashedRequest,
    pub(crate) terms: Terms,
    /// The session, which may matter to the choice of a replica.
    pub(crate) session: Option<Box<str>>,
}

// === impl Sink ===

impl Sink {
    pub(crate) fn new(open: OpenRequest) -> Self {
        Self(Some(Box::new(open)))
    }

    fn open(&self) -> &OpenRequest {
        self.0.as_ref().expect("a sink is open until it is consumed")
    }

    fn open_mut(&mut self) -> &mut OpenRequest {
        self.0.as_mut().expect("a sink is open until it is consumed")
    }

    /// Returns the request as the caller asked for it.
    pub(crate) fn request(&self) -> &HashedRequest {
        &self.open().asked.request
    }

    pub(crate) fn session(&self) -> Option<&str> {
        self.open().asked.session.as_deref()
    }

    /// Returns the terms of the request. A caller that has seen tokens waits for the rest of them,
    /// without a deadline.
    pub(crate) fn terms(&self) -> Terms {
        let OpenRequest { asked, emitted, .. } = self.open();
        let deadline = asked.terms.deadline.filter(|_| emitted.tokens.is_empty());
        Terms { deadline, ..asked.terms }
    }

    /// Returns what the caller has been sent.
    pub(crate) fn emitted(&self) -> Emitted {
        self.open().emitted.clone()
    }

    /// Returns the spans of the request, if it is traced.
    pub(crate) fn journey(&mut self) -> Option<&mut Journey> {
        self.open_mut().journey.as_deref_mut()
    }

    /// Returns whether the request is traced.
    pub(crate) fn is_traced(&self) -> bool {
        self.open().journey.is_some()
    }

    /// Sends one emission to the caller. A caller that has left is found by the next look (**GE-1**).
    pub(crate) fn send(&mut self, emission: Emission) {
        let open = self.open_mut();
        if let Some(journey) = &mut open.journey {
            journey.emits(&emission);
        }
        open.unserved_at = None;
        let emitted = &mut open.emitted;
        emitted.cached_tokens.get_or_insert(emission.cached_tokens as usize);
        emitted.prompt_logprobs += emission.prompt_logprobs.len();
        emitted.tokens.extend(emission.token.as_ref().map(|sampled| sampled.token));
        drop(open.emissions.send(emission));
    }

    /// Sends the request to another replica.
    pub(crate) fn move_to(&mut self, replica: ReplicaId) {
        let open = self.open_mut();
        open.home.move_to(replica, open.emitted.tokens.len());
        if let Some(journey) = &mut open.journey {
            journey.moves_to(replica);
        }
    }

    /// Sends the request to the waiting room, where it may stay until `unserved_at`, or until an earlier
    /// such time that it was given since its last token. Returns that time.
    pub(crate) fn park(&mut self, unserved_at: Duration) -> Duration {
        let open = self.open_mut();
        let left = open.home.park(open.emitted.tokens.len());
        if let Some(journey) = open.journey.as_mut().filter(|_| left) {
            journey.parks();
        }
        *open.unserved_at.get_or_insert(unserved_at)
    }

    /// Records that the replica that computed the request is lost, with everything that it knew.
    pub(crate) fn lose(&mut self) {
        self.open_mut().emitted.losses += 1;
    }

    /// Returns whether the caller has left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.open().emissions.is_closed()
    }

    /// Ends the request with this reason and nothing more.
    pub(crate) fn end(self, reason: FinishReason) {
        let open = self.open();
        let cached_tokens = open.emitted.cached_tokens.unwrap_or_default();
        let emission = Emission {
            id: open.asked.request.request.id,
            cached_tokens: u32::try_from(cached_tokens).unwrap_or(u32::MAX),
            prompt_logprobs: Vec::new(),
            token: None,
            finish: Some(reason),
        };
        self.finish(emission);
    }

    /// Sends the last emission to the caller, after the place of the request is free.
    pub(crate) fn finish(mut self, emission: Emission) {
        let Some(open) = self.0.take() else { return };
        let OpenRequest { emissions, place, journey, .. } = *open;
        if let Some(mut journey) = journey {
            journey.emits(&emission);
        }
        drop(place);
        drop(emissions.send(emission));
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let Some(open) = self.0.take().filter(|open| !open.emissions.is_closed()) else { return };
        // GE-2
        let (waiting, losses) = (Arc::clone(&open.waiting), open.emitted.losses);
        let sink = Self(Some(open));
        if losses < LOSSES_MAX {
            waiting.park(Pending::new(sink));
        } else {
            let why = format!("{losses} replicas failed one after the other with this request");
            sink.end(FinishReason::Failed(why));
        }
    }
}
