//! The two ends of a generation: the caller's [`Generation`] and the replica's [`Sink`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use playhouse_types::{Emission, FinishReason, ReplicaId, RequestId};
use tokio::sync::mpsc;

use crate::admission::Place;
use crate::journey::Journey;
use crate::seats::Seats;

/// The tokens of one accepted request, as they come. The last emission carries a finish reason.
///
/// Dropping it before that cancels the request (**C-4**).
#[derive(Debug)]
pub struct Generation {
    id: RequestId,
    // At most one emission per prompt and per output token, so its length is bounded by the
    // request's own size although the channel is not.
    emissions: mpsc::UnboundedReceiver<Emission>,
    home: Home,
    seats: Arc<Seats>,
    finished: bool,
    /// Tokens that have come.
    received: u32,
    resumed: bool,
}

/// Where a replica puts the emissions of one request. Holds the request's place: it is free again
/// when the replica is done with it, not when the caller stops listening (**C-2**).
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) emissions: mpsc::UnboundedSender<Emission>,
    pub(crate) place: Place,
    home: Home,
    /// Tokens that were handed over.
    sent: u32,
    /// Its spans, if it is traced.
    pub(crate) journey: Option<Box<Journey>>,
}

/// The replica that has a request, as its caller knows it.
#[derive(Clone, Debug)]
struct Home(Arc<Whereabouts>);

#[derive(Debug)]
struct Whereabouts {
    /// The replica, or [`PARKED`].
    replica: AtomicU32,
    /// How many tokens there were when the request last left a replica, or [`NEVER`].
    moved_at: AtomicU32,
}

/// No replica has this id.
const PARKED: u32 = u32::MAX;

/// No request has so many tokens.
const NEVER: u32 = u32::MAX;

/// Connects a caller to `replica`, or to nobody yet.
pub(crate) fn connect(
    id: RequestId,
    replica: Option<ReplicaId>,
    seats: Arc<Seats>,
    place: Place,
) -> (Sink, Generation) {
    let (sender, emissions) = mpsc::unbounded_channel();
    let home = Home(Arc::new(Whereabouts {
        replica: AtomicU32::new(replica.map_or(PARKED, |replica| replica.0)),
        moved_at: AtomicU32::new(NEVER),
    }));
    let sink = Sink { emissions: sender, place, home: home.clone(), sent: 0, journey: None };
    let (finished, received, resumed) = (false, 0, false);
    (sink, Generation { id, emissions, home, seats, finished, received, resumed })
}

// === impl Home ===

impl Home {
    fn replica(&self) -> Option<ReplicaId> {
        let replica = self.0.replica.load(Ordering::SeqCst);
        Some(replica).filter(|home| *home != PARKED).map(ReplicaId)
    }

    /// A request with so many tokens goes to `replica`, or is parked.
    fn set(&self, replica: u32, tokens: u32) {
        self.0.moved_at.store(tokens, Ordering::SeqCst);
        self.0.replica.store(replica, Ordering::SeqCst);
    }
}

// === impl Sink ===

impl Sink {
    /// Hands over one emission. A caller that left is not an error: its `Cancel` is on the way.
    pub(crate) fn send(&mut self, emission: Emission) {
        if let Some(journey) = &mut self.journey {
            journey.emits(&emission);
        }
        self.sent += u32::from(emission.token.is_some());
        drop(self.emissions.send(emission));
    }

    /// The request goes to another replica: its caller's `Cancel` shall follow. One that was sent
    /// to the old replica meanwhile is found by [`Sink::is_abandoned`].
    pub(crate) fn move_to(&mut self, replica: ReplicaId) {
        self.home.set(replica.0, self.sent);
        if let Some(journey) = &mut self.journey {
            journey.moves_to(replica);
        }
    }

    /// As [`Sink::move_to`], to nobody.
    pub(crate) fn move_to_parking(&mut self) {
        self.home.set(PARKED, self.sent);
        if let Some(journey) = &mut self.journey {
            journey.parks();
        }
    }

    /// The caller has left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.emissions.is_closed()
    }

    /// Hands over the last emission. Whoever sees it finds its place free.
    pub(crate) fn finish(mut self, emission: Emission) {
        if let Some(mut journey) = self.journey.take() {
            journey.emits(&emission);
        }
        drop(self.place);
        drop(self.emissions.send(emission));
    }
}

// === impl Generation ===

impl Generation {
    /// The request's id, for logs.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// No replica can serve it now. It waits for one, and ends as
    /// [`Unserved`](FinishReason::Unserved) when there is none in time.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.home.replica().is_none()
    }

    /// The replica that has it; `None` while it is parked.
    #[must_use]
    pub fn replica(&self) -> Option<ReplicaId> {
        self.home.replica()
    }

    /// Whether the last emission has a token that is the first since the request left a replica, and not
    /// the first of all.
    #[must_use]
    pub fn has_resumed(&self) -> bool {
        self.resumed
    }

    /// The next emission; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Emission> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next emission if it is already here.
    pub fn try_next(&mut self) -> Option<Emission> {
        if self.finished {
            return None;
        }
        let emission = self.emissions.try_recv().ok()?;
        self.take(&emission);
        Some(emission)
    }

    /// Polls for the next emission; `Ready(None)` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Emission>> {
        if self.finished {
            return Poll::Ready(None);
        }
        self.emissions.poll_recv(cx).map(|emission| {
            let emission = emission.unwrap_or_else(|| self.abandoned());
            self.take(&emission);
            Some(emission)
        })
    }

    fn take(&mut self, emission: &Emission) {
        self.finished = emission.finish.is_some();
        self.resumed = false;
        if emission.token.is_some() {
            let moved_at = self.home.0.moved_at.load(Ordering::SeqCst);
            self.resumed = self.received > 0 && moved_at == self.received;
            self.received += 1;
        }
    }

    /// The replica is gone with our sink: the request still ends exactly once (**C-1**).
    fn abandoned(&self) -> Emission {
        Emission {
            id: self.id,
            cached_tokens: 0,
            prompt_logprobs: Vec::new(),
            token: None,
            finish: Some(FinishReason::Failed("the replica stopped".to_owned())),
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // Before it is known who is told: a replica that takes the request over finds it abandoned.
        self.emissions.close();
        // What has finished is unknown by now, and cancelling it does nothing.
        self.seats.cancel(self.home.replica(), self.id);
    }
}
