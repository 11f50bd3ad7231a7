//! The phases in which a server ends, and who waits for which.
//!
//! - **END-1** from the signal on no generation begins: a new one is refused with 503 `draining` and
//!   `Retry-After`, `/readyz` says 503, and every response closes its connection. The listener goes on
//!   accepting, so that a load balancer sees that before connections fail.
//! - **END-2** the listener closes when the last accepted request has ended, or at the deadline.
//!   Connections in the kernel's queue are accepted and answered before that.
//! - **END-3** at the deadline, `drain_timeout` after the signal, every request that has no answer yet is
//!   answered with 503 `draining`, and every stream ends with an error event of that code. Nobody waits
//!   for an engine then: one that hangs changes nothing.
//! - **END-4** after another `farewell_timeout` the connections that are left are closed. Only an answer
//!   that its client has not taken to its end counts as cut off.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

/// How far a server has got with its end; later phases are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
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

/// The phase of a server, and how many requests did not end by themselves.
#[derive(Debug)]
pub(crate) struct Shutdown {
    phase: watch::Sender<Phase>,
    ended: AtomicU32,
}

// === impl Shutdown ===

impl Shutdown {
    pub(crate) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving), ended: AtomicU32::new(0) }
    }

    /// Begins a phase. No server goes back to an earlier one.
    pub(crate) fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = next > *phase;
            *phase = next.max(*phase);
            is_later
        });
    }

    /// Whether this phase has begun.
    pub(crate) fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Completes when this phase has begun.
    pub(crate) fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        let mut now = self.phase.subscribe();
        // A gateway that is gone has reached every phase.
        async move { drop(now.wait_for(|now| *now >= phase).await) }
    }

    /// Counts a request that was told that it ends here.
    pub(crate) fn ended_one(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that were told so.
    pub(crate) fn ended(&self) -> u32 {
        self.ended.load(Ordering::Relaxed)
    }
}
