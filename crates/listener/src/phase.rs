//! The phases in which a listener ends, and who waits for which.

use std::future::Future;

use tokio::sync::watch;

/// How far a listener has got with its end; later phases are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are accepted.
    Serving,
    /// Accepted requests run on, others are refused.
    Draining,
    /// The listener is closed, and connections close when they have nothing to answer.
    Closing,
    /// What still runs is told that it ends here.
    Ending,
    /// Connections close, whatever they still have to send.
    CutOff,
}

/// The [`Phase`] of a listener, shared by it and those who answer on it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Phases(watch::Sender<Phase>);

// === impl Phases ===

impl Default for Phases {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Phases {
    /// Begins a phase. No listener goes back to an earlier one.
    pub(crate) fn enter(&self, next: Phase) {
        self.0.send_if_modified(|phase| {
            let is_later = next > *phase;
            *phase = next.max(*phase);
            is_later
        });
    }

    /// Whether this phase has begun.
    #[must_use]
    pub fn is(&self, phase: Phase) -> bool {
        *self.0.borrow() >= phase
    }

    /// Completes when this phase has begun.
    pub fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        let mut now = self.0.subscribe();
        // A listener that is gone has reached every phase.
        async move { drop(now.wait_for(|now| *now >= phase).await) }
    }
}
