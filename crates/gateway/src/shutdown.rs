//! The phases in which a server ends, and who waits for which.
//!
//! - **END-1** from the signal on no generation begins: a new one is refused with 503 `draining` and
//!   `Retry-After`, `/readyz` says 503, and every response closes its connection (one of HTTP/2 takes no
//!   more requests, and closes behind those it has). The listener goes on accepting, so that a load
//!   balancer sees that before connections fail.
//! - **END-2** the listener closes when the last accepted request has ended, or at the deadline.
//!   Connections in the kernel's queue are accepted and answered before that.
//! - **END-3** at the deadline, `drain_timeout` after the signal, every request that has no answer yet is
//!   answered with 503 `draining`, and every stream ends with an error event of that code. Nobody waits
//!   for an engine then: one that hangs changes nothing.
//! - **END-4** after another `farewell_timeout` the connections that are left are closed. Only an answer
//!   that its client has not taken to its end counts as cut off.

use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use playhouse_listener::Phase;
use playhouse_listener::Phases;

/// The phase of a server, and how many requests did not end by themselves.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    phases: Phases,
    ended: AtomicU32,
}

// === impl Shutdown ===

impl Shutdown {
    /// What the listener moves on.
    pub(crate) fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Whether this phase has begun.
    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.phases.is(phase)
    }

    /// Completes when this phase has begun.
    pub(crate) fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        self.phases.reached(phase)
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
