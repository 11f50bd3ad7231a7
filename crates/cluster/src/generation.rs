//! [`Generation`]: the caller's end of a request. The cluster's end is a [`Sink`].

use std::sync::Arc;
use std::task::{Context, Poll};

use playhouse_scheduler::Emitted;
use playhouse_telemetry::TraceSpan;
use playhouse_types::{Emission, FinishReason, ReplicaId, RequestId};
use tokio::sync::mpsc;

use crate::admission::Place;
use crate::journey::Journey;
use crate::mail::{Asked, Home, OpenRequest, Sink};
use crate::replicas::Replicas;

/// The stream of tokens of one accepted request. The last emission carries a finish reason.
///
/// Dropping a generation before its last emission cancels the request (**C-4**).
#[derive(Debug)]
pub struct Generation {
    id: RequestId,
    // At most one emission per prompt and per output token, so its length is bounded by the
    // request's own size although the channel is not.
    emissions: mpsc::UnboundedReceiver<Emission>,
    home: Home,
    replicas: Arc<Replicas>,
    finished: bool,
    /// The number of tokens that have come.
    received: u32,
    resumed: bool,
    /// The place of the request, in tests of the layers above, where there is no sink.
    _place: Option<Place>,
}

/// Connects a caller to `replica`, or to the waiting room if there is none yet.
pub(crate) fn connect(
    asked: Asked,
    replica: Option<ReplicaId>,
    replicas: &Arc<Replicas>,
    place: Place,
    span: &TraceSpan,
) -> (Sink, Generation) {
    let (sender, emissions) = mpsc::unbounded_channel();
    let (id, home) = (asked.request.request.id, Home::new(replica));
    let open = OpenRequest {
        emissions: sender,
        place,
        home: home.clone(),
        journey: Journey::begin(span, replica),
        asked,
        emitted: Emitted { arrived: replicas.clock().now(), ..Emitted::default() },
        unserved_at: None,
        waiting: Arc::clone(replicas.waiting_room()),
    };
    let replicas = Arc::clone(replicas);
    (Sink::new(open), Generation::new(id, emissions, home, replicas, None))
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

    /// Returns the request's id, for logs.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Returns whether the request is parked because no replica can serve it now. A parked request ends
    /// as [`Unserved`](FinishReason::Unserved) when no replica serves in time.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.home.replica().is_none()
    }

    /// Returns the replica that has the request; `None` while the request is parked.
    #[must_use]
    pub fn replica(&self) -> Option<ReplicaId> {
        self.home.replica()
    }

    /// Returns whether the last emission has the first token since the request left a replica, and that
    /// token is not the first of the whole request.
    #[must_use]
    pub fn has_resumed(&self) -> bool {
        self.resumed
    }

    /// Returns the next emission; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Emission> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Returns the next emission if it has already come.
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
            self.resumed = self.received > 0 && self.home.moved_at(self.received);
            self.received += 1;
        }
    }

    /// Returns the emission of a request whose sink is gone, so that the request still ends exactly once
    /// (**C-1**).
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
            // DE-1: before any holder is told.
            self.emissions.close();
            self.replicas.caller_left();
        }
    }
}
