//! The two ends of a generation: the caller's [`Generation`] and the replica's [`Sink`].

use std::task::{Context, Poll};

use playhouse_types::{Emission, FinishReason, RequestId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::backend::Backend;
use crate::replica::ReplicaMsg;

/// The tokens of one accepted request, as they come. The last emission carries a finish reason.
///
/// Dropping it before that cancels the request (**C-4**).
#[derive(Debug)]
pub struct Generation {
    id: RequestId,
    // At most one emission per prompt and per output token, so its length is bounded by the
    // request's own size although the channel is not.
    emissions: mpsc::UnboundedReceiver<Emission>,
    backend: Backend,
    finished: bool,
}

/// Where a replica puts the emissions of one request. Holds the request's permits: they return
/// when the replica is done with it, not when the caller stops listening (**C-2**).
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) emissions: mpsc::UnboundedSender<Emission>,
    pub(crate) permits: Permits,
}

/// One request, and the tokens of its prompt.
pub(crate) type Permits = [OwnedSemaphorePermit; 2];

/// Connects a caller to `backend`.
pub(crate) fn connect(id: RequestId, backend: Backend, permits: Permits) -> (Sink, Generation) {
    let (sender, emissions) = mpsc::unbounded_channel();
    let sink = Sink { emissions: sender, permits };
    (sink, Generation { id, emissions, backend, finished: false })
}

// === impl Sink ===

impl Sink {
    /// Hands over one emission. A caller that left is not an error: its `Cancel` is on the way.
    pub(crate) fn send(&self, emission: Emission) {
        drop(self.emissions.send(emission));
    }

    /// Hands over the last emission. Whoever sees it finds the permits returned.
    pub(crate) fn finish(self, emission: Emission) {
        drop(self.permits);
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
        self.finished = emission.finish.is_some();
        Some(emission)
    }

    /// Polls for the next emission; `Ready(None)` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Emission>> {
        if self.finished {
            return Poll::Ready(None);
        }
        self.emissions.poll_recv(cx).map(|emission| {
            let emission = emission.unwrap_or_else(|| self.abandoned());
            self.finished = emission.finish.is_some();
            Some(emission)
        })
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
        // What has finished is unknown by now, and cancelling it does nothing.
        self.backend.cast(ReplicaMsg::Cancel(self.id));
    }
}
