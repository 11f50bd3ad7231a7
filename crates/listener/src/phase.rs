//! The phases in which a listener ends.

use std::future::Future;

use tokio::sync::watch;

/// The progress of a listener's shutdown; later phases are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are accepted and answered.
    Serving,
    /// Accepted requests run on, new ones are refused.
    Draining,
    /// The listener is closed, and connections close when they have nothing to answer.
    Closing,
    /// Requests that still run are told that they end now.
    Ending,
    /// Connections close, even with answers that are not sent yet.
    CutOff,
}

/// The current [`Phase`] of a listener, shared by the listener and its service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Phases(watch::Sender<Phase>);

// === impl Phases ===

impl Default for Phases {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Phases {
    /// Enters the phase `next`, unless the listener is in a later phase already.
    pub(crate) fn enter(&self, next: Phase) {
        self.0.send_if_modified(|phase| {
            let is_later = next > *phase;
            *phase = next.max(*phase);
            is_later
        });
    }

    /// Returns whether `phase` has begun.
    #[must_use]
    pub fn is(&self, phase: Phase) -> bool {
        *self.0.borrow() >= phase
    }

    /// Completes when `phase` has begun.
    pub fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        let mut now = self.0.subscribe();
        // A dropped listener counts as having reached every phase.
        async move { drop(now.wait_for(|now| *now >= phase).await) }
    }
}
