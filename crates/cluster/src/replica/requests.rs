//! The requests of a replica: taken in, passed their emissions, and given away.

use playhouse_types::{Emission, FinishReason};

use super::State;
use crate::mail::Pending;

// === impl State ===

impl State {
    pub(super) fn take(&mut self, pending: Pending) {
        self.report.accepted();
        if pending.sink.is_abandoned() {
            return;
        }
        match pending.enter(&mut self.scheduler, self.clock.now()) {
            Ok(sink) => self.sinks.insert(sink),
            Err((sink, why)) => sink.end(FinishReason::Failed(why.to_string())),
        }
        // The request may have been sent here before it was known that this replica does not serve.
        if !self.replicas.serves(self.id) {
            self.hand_over();
        }
    }

    /// Ends the requests whose callers have left (**GE-1** of `sink`).
    pub(super) fn cancel_abandoned(&mut self) {
        self.departures.lower();
        for id in self.sinks.abandoned() {
            match self.scheduler.cancel(id) {
                Some(emission) => self.deliver(emission),
                None => drop(self.sinks.remove(id)),
            }
        }
    }

    /// Gives every request without a slot to a replica that serves (**C-6**), or parks it until one
    /// does, be it this one (**C-7**).
    pub(super) fn hand_over(&mut self) {
        for moved in self.scheduler.evacuate() {
            let Some(mut sink) = self.sinks.remove(moved.request().id) else { continue };
            if sink.is_abandoned() {
                continue;
            }
            let other = self.replicas.pick_other(sink.request(), self.id);
            match other {
                None => self.replicas.park(Pending::moved(moved, sink)),
                Some(other) => {
                    self.report.migrated(self.cause);
                    sink.move_to(other);
                    self.replicas.send_or_park(other, Pending::moved(moved, sink));
                }
            }
        }
        self.tell();
    }

    pub(super) fn deliver(&mut self, emission: Emission) {
        self.sinks.deliver(emission);
    }
}
