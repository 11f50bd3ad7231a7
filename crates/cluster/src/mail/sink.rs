//! The cluster's end of a request: where its emissions go.
//!
//! - **GE-1** the closed channel is the cancellation: whoever has the sink sees that its caller has
//!   left, and nobody has to be told which request that is (**C-4**).
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

/// Replicas that may be lost with a request before it is to blame for that.
const LOSSES_MAX: u32 = 3;

/// Where a replica puts the emissions of one request. Holds the request's place: it is free again
/// when the replica is done with it, not when the caller stops listening (**C-2**).
#[derive(Debug)]
pub(crate) struct Sink(Option<Box<OpenRequest>>);

/// What a request is made of until its end.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) emissions: mpsc::UnboundedSender<Emission>,
    pub(crate) place: Place,
    pub(crate) home: Home,
    /// Its spans, if it is traced.
    pub(crate) journey: Option<Box<Journey>>,
    pub(crate) asked: Asked,
    /// What its caller has been sent.
    pub(crate) emitted: Emitted,
    /// When it ends as unserved, if it was without a replica since it was sent a token last.
    pub(crate) unserved_at: Option<Duration>,
    /// Takes the request back if its sink is dropped.
    pub(crate) waiting: Arc<WaitingRoom>,
}

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: HashedRequest,
    pub(crate) terms: Terms,
    /// It may matter to where the request goes.
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

    /// What was asked for.
    pub(crate) fn request(&self) -> &HashedRequest {
        &self.open().asked.request
    }

    pub(crate) fn session(&self) -> Option<&str> {
        self.open().asked.session.as_deref()
    }

    /// On which terms it was asked for. A caller that has seen tokens waits for the rest of them.
    pub(crate) fn terms(&self) -> Terms {
        let OpenRequest { asked, emitted, .. } = self.open();
        let deadline = asked.terms.deadline.filter(|_| emitted.tokens.is_empty());
        Terms { deadline, ..asked.terms }
    }

    /// What the caller has been sent.
    pub(crate) fn emitted(&self) -> Emitted {
        self.open().emitted.clone()
    }

    /// Its spans, if it is traced.
    pub(crate) fn journey(&mut self) -> Option<&mut Journey> {
        self.open_mut().journey.as_deref_mut()
    }

    /// Whether it is traced.
    pub(crate) fn is_traced(&self) -> bool {
        self.open().journey.is_some()
    }

    /// Hands over one emission. A caller that has left is noticed by whoever looks (**GE-1**).
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

    /// The request goes to another replica.
    pub(crate) fn move_to(&mut self, replica: ReplicaId) {
        let open = self.open_mut();
        open.home.move_to(replica, open.emitted.tokens.len());
        if let Some(journey) = &mut open.journey {
            journey.moves_to(replica);
        }
    }

    /// The request goes to the waiting room, where it may stay until `unserved_at`, or until the first
    /// such time that it was told since its last token. Returns that time.
    pub(crate) fn park(&mut self, unserved_at: Duration) -> Duration {
        let open = self.open_mut();
        let left = open.home.park(open.emitted.tokens.len());
        if let Some(journey) = open.journey.as_mut().filter(|_| left) {
            journey.parks();
        }
        *open.unserved_at.get_or_insert(unserved_at)
    }

    /// The replica that computed the request is lost with everything that it knew.
    pub(crate) fn lose(&mut self) {
        self.open_mut().emitted.losses += 1;
    }

    /// The caller has left.
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

    /// Hands over the last emission. Whoever sees it finds its place free.
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
