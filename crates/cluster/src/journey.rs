//! The journey of a traced request through the cluster, as spans: `generate`, and in it one of `parked`,
//! `queue`, `prefill` and `decode` at a time. A request that moves, or loses its slot, goes through some
//! of them again.

use std::time::Duration;

use playhouse_telemetry::TraceSpan;
use playhouse_types::{Emission, FinishReason, ReplicaId};
use tokio::time::Instant;

/// The spans of a traced request, which travel with the request; other requests have none.
#[derive(Debug)]
pub(crate) struct Journey {
    /// The span from the front door to the last token.
    whole: TraceSpan,
    part: Part,
    span: TraceSpan,
    since: Instant,
    /// How long each part took, in the order of their declaration.
    took: [Duration; 4],
    replica: Option<ReplicaId>,
    tokens: i64,
    cached_tokens: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Parked,
    Queue,
    Prefill,
    Decode,
}

// === impl Journey ===

impl Journey {
    /// Begins the journey of a request within the span of its HTTP request; `None` if that span is not
    /// traced.
    pub(crate) fn begin(request: &TraceSpan, replica: Option<ReplicaId>) -> Option<Box<Self>> {
        if !request.is_on() {
            return None;
        }
        let (whole, part) = (request.child("generate"), Part::Parked);
        let mut journey = Self {
            span: TraceSpan::none(),
            whole,
            part,
            since: Instant::now(),
            took: [Duration::ZERO; 4],
            replica,
            tokens: 0,
            cached_tokens: 0,
        };
        journey.enter(if replica.is_some() { Part::Queue } else { Part::Parked });
        Some(Box::new(journey))
    }

    /// Records that a replica takes the request: the first one, or another.
    pub(crate) fn moves_to(&mut self, replica: ReplicaId) {
        if let Some(from) = self.replica.replace(replica) {
            self.whole.event("migrated", &[("from", &from), ("to", &replica)]);
        }
        self.enter(Part::Queue);
    }

    /// Records that no replica can serve the request now.
    pub(crate) fn parks(&mut self) {
        self.whole.event("parked", &[]);
        self.enter(Part::Parked);
    }

    /// Records that the request has got a slot in the batch.
    pub(crate) fn admitted(&mut self) {
        if self.part == Part::Decode || self.part == Part::Prefill {
            self.whole.event("preempted", &[]);
        }
        self.enter(Part::Prefill);
    }

    /// Records that something was computed for the request.
    pub(crate) fn emits(&mut self, emission: &Emission) {
        self.cached_tokens = emission.cached_tokens.into();
        if emission.token.is_some() {
            self.tokens += 1;
            if self.part == Part::Prefill {
                self.enter(Part::Decode);
            }
        }
        match &emission.finish {
            Some(FinishReason::Cancelled) => self.whole.event("cancelled", &[]),
            Some(FinishReason::Failed(_)) => self.whole.fail("engine_failed"),
            Some(FinishReason::Unserved(_)) => self.whole.fail("unserved"),
            Some(FinishReason::Expired) => self.whole.fail("expired"),
            Some(FinishReason::Draining) => self.whole.fail("draining"),
            Some(FinishReason::Stop(_) | FinishReason::Length) | None => {}
        }
    }

    /// Returns whether the request's prompt is being computed.
    pub(crate) fn prefills(&self) -> bool {
        self.part == Part::Prefill
    }

    /// Returns the span of the part that the request is in now.
    pub(crate) fn span(&self) -> &TraceSpan {
        &self.span
    }

    fn enter(&mut self, part: Part) {
        self.leave();
        (self.part, self.span) = (part, self.whole.child(part.name()));
        if let Some(replica) = self.replica.filter(|_| part != Part::Parked) {
            self.span.set("playhouse.replica", i64::from(replica.0));
        }
    }

    fn leave(&mut self) {
        let now = Instant::now();
        self.took[self.part as usize] += now - self.since;
        self.since = now;
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        self.leave();
        let [parked, queue, prefill, decode] = self.took.map(|took| took.as_secs_f64());
        self.whole.set("gen_ai.latency.time_in_queue", parked + queue);
        self.whole.set("gen_ai.latency.time_in_model_prefill", prefill);
        self.whole.set("gen_ai.latency.time_in_model_decode", decode);
        self.whole.set("gen_ai.latency.time_in_model_inference", prefill + decode);
        self.whole.set("playhouse.generated_tokens", self.tokens);
        self.whole.set("playhouse.cached_tokens", self.cached_tokens);
    }
}

// === impl Part ===

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}
