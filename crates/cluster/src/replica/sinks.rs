//! The sinks of a replica's requests, by id, and which of the requests are traced.

use std::collections::HashMap;

use playhouse_types::{Emission, RequestId};

use crate::journey::Journey;
use crate::mail::Sink;

/// The sinks to which the emissions of each request go.
#[derive(Default)]
pub(super) struct Sinks {
    sinks: HashMap<RequestId, Sink>,
    /// The number of requests with a [`Journey`]. At 0, which is the rule, no search for them is made.
    traced: usize,
}

// === impl Sinks ===

impl Sinks {
    pub(super) fn insert(&mut self, sink: Sink) {
        self.traced += usize::from(sink.is_traced());
        self.sinks.insert(sink.request().request.id, sink);
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Sink> {
        let sink = self.sinks.remove(&id)?;
        self.traced -= usize::from(sink.is_traced());
        Some(sink)
    }

    /// Passes an emission on to its request.
    pub(super) fn deliver(&mut self, emission: Emission) {
        if emission.finish.is_none() {
            if let Some(sink) = self.sinks.get_mut(&emission.id) {
                sink.send(emission);
            }
        } else if let Some(sink) = self.remove(emission.id) {
            sink.finish(emission);
        }
    }

    /// Returns the requests whose callers have left, the oldest first.
    pub(super) fn abandoned(&self) -> Vec<RequestId> {
        let abandoned = self.sinks.iter().filter(|(_, sink)| sink.is_abandoned());
        let mut ids: Vec<_> = abandoned.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Loses all requests with their replica; they go on elsewhere, the oldest first.
    pub(super) fn lose(&mut self) {
        self.traced = 0;
        let mut all: Vec<_> = self.sinks.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        for (_, mut sink) in all {
            sink.lose();
        }
    }

    /// Returns whether any request is traced.
    pub(super) fn is_traced(&self) -> bool {
        self.traced > 0
    }

    pub(super) fn journey(&mut self, id: RequestId) -> Option<&mut Journey> {
        self.sinks.get_mut(&id)?.journey()
    }
}
