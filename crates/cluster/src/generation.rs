//! The two ends of a generation: the caller's [`Generation`] and the cluster's [`Sink`].
//!
//! - **GE-1** the closed channel is the cancellation: whoever has the sink sees that its caller has
//!   left, and nobody has to be told which request that is (**C-4**).
//! - **GE-2** a request is where its sink is. A sink that is dropped before the end of its request, with a
//!   replica that panics or in the mailbox of one that is gone, brings the request back to the waiting
//!   room, with all that its caller has seen (**C-1**).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use playhouse_scheduler::{Emitted, Terms};
use playhouse_telemetry::TraceSpan;
use playhouse_types::{Emission, FinishReason, GenerateRequest, ReplicaId, RequestId};
use tokio::sync::mpsc;

use crate::admission::Place;
use crate::journey::Journey;
use crate::replicas::Replicas;

/// Replicas that may be lost with a request before it is to blame for that.
const LOSSES_MAX: u32 = 3;

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
    replicas: Arc<Replicas>,
    finished: bool,
    /// Tokens that have come.
    received: u32,
    resumed: bool,
    /// In tests of the layers above, where nobody has a sink.
    _place: Option<Place>,
}

/// Where a replica puts the emissions of one request. Holds the request's place: it is free again
/// when the replica is done with it, not when the caller stops listening (**C-2**).
#[derive(Debug)]
pub(crate) struct Sink(Option<Box<Open>>);

/// What a request is made of until its end.
#[derive(Debug)]
struct Open {
    emissions: mpsc::UnboundedSender<Emission>,
    place: Place,
    home: Home,
    /// Its spans, if it is traced.
    journey: Option<Box<Journey>>,
    asked: Asked,
    /// What its caller has been sent.
    emitted: Emitted,
    /// When it ends as unserved, if it was without a replica since it was sent a token last.
    unserved_at: Option<Duration>,
    replicas: Arc<Replicas>,
}

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: GenerateRequest,
    pub(crate) terms: Terms,
    /// It may matter to where the request goes.
    pub(crate) session: Option<Box<str>>,
}

/// The replica that has a request, for whoever wants to know.
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
    asked: Asked,
    replica: Option<ReplicaId>,
    replicas: &Arc<Replicas>,
    place: Place,
    span: &TraceSpan,
) -> (Sink, Generation) {
    let (sender, emissions) = mpsc::unbounded_channel();
    let (id, home) = (asked.request.id, Home::new(replica));
    let open = Open {
        emissions: sender,
        place,
        home: home.clone(),
        journey: Journey::begin(span, replica),
        asked,
        emitted: Emitted { arrived: replicas.clock().now(), ..Emitted::default() },
        unserved_at: None,
        replicas: Arc::clone(replicas),
    };
    let replicas = Arc::clone(replicas);
    (Sink(Some(Box::new(open))), Generation::new(id, emissions, home, replicas, None))
}

/// Connects a caller to a script, in tests of the layers above.
pub(crate) fn scripted(
    id: RequestId,
    replicas: &Arc<Replicas>,
    place: Place,
) -> (mpsc::UnboundedSender<Emission>, Generation) {
    let (sender, emissions) = mpsc::unbounded_channel();
    let (home, replicas) = (Home::new(Some(ReplicaId(0))), Arc::clone(replicas));
    (sender, Generation::new(id, emissions, home, replicas, Some(place)))
}

// === impl Home ===

impl Home {
    fn new(replica: Option<ReplicaId>) -> Self {
        Self(Arc::new(Whereabouts {
            replica: AtomicU32::new(replica.map_or(PARKED, |replica| replica.0)),
            moved_at: AtomicU32::new(NEVER),
        }))
    }

    fn replica(&self) -> Option<ReplicaId> {
        let replica = self.0.replica.load(Ordering::SeqCst);
        Some(replica).filter(|home| *home != PARKED).map(ReplicaId)
    }

    /// A request with so many tokens goes to `replica`, or is parked. Returns where it was.
    fn set(&self, replica: u32, tokens: usize) -> u32 {
        self.0.moved_at.store(u32::try_from(tokens).unwrap_or(NEVER), Ordering::SeqCst);
        self.0.replica.swap(replica, Ordering::SeqCst)
    }
}

// === impl Sink ===

impl Sink {
    fn open(&self) -> &Open {
        self.0.as_ref().expect("a sink is open until it is consumed")
    }

    fn open_mut(&mut self) -> &mut Open {
        self.0.as_mut().expect("a sink is open until it is consumed")
    }

    /// What was asked for.
    pub(crate) fn request(&self) -> &GenerateRequest {
        &self.open().asked.request
    }

    pub(crate) fn session(&self) -> Option<&str> {
        self.open().asked.session.as_deref()
    }

    /// On which terms it was asked for. A caller that has seen tokens waits for the rest of them.
    pub(crate) fn terms(&self) -> Terms {
        let Open { asked, emitted, .. } = self.open();
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
        open.home.set(replica.0, open.emitted.tokens.len());
        if let Some(journey) = &mut open.journey {
            journey.moves_to(replica);
        }
    }

    /// The request goes to the waiting room, where it may stay until `unserved_at`, or until the first
    /// such time that it was told since its last token. Returns that time.
    pub(crate) fn park(&mut self, unserved_at: Duration) -> Duration {
        let open = self.open_mut();
        let was = open.home.set(PARKED, open.emitted.tokens.len());
        if let Some(journey) = open.journey.as_mut().filter(|_| was != PARKED) {
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
            id: open.asked.request.id,
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
        let Open { emissions, place, journey, .. } = *open;
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
        let (replicas, losses) = (Arc::clone(&open.replicas), open.emitted.losses);
        let sink = Self(Some(open));
        if losses < LOSSES_MAX {
            replicas.park(crate::pending::Pending::new(sink));
        } else {
            let why = format!("{losses} replicas failed one after the other with this request");
            sink.end(FinishReason::Failed(why));
        }
    }
}

// === impl Generation ===

impl Generation {
    fn new(
        id: RequestId,
        emissions: mpsc::UnboundedReceiver<Emission>,
        home: Home,
        replicas: Arc<Replicas>,
        _place: Option<Place>,
    ) -> Self {
        let (finished, received, resumed) = (false, 0, false);
        Self { id, emissions, home, replicas, finished, received, resumed, _place }
    }

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

    /// Nobody has a sink any more: the request still ends exactly once (**C-1**).
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
        if !self.finished {
            // DE-1: before anybody is told.
            self.emissions.close();
            self.replicas.caller_left();
        }
    }
}
