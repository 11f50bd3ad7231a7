//! The phases of a server's shutdown.
//!
//! - **END-1** from the signal on no generation begins: a new one is refused with 503 `draining` and
//!   `Retry-After`, `/readyz` says 503, and every response closes its connection (a connection of HTTP/2
//!   takes no more requests, and closes after its running ones). The listener goes on accepting, so that
//!   a load balancer sees that before connections fail.
//! - **END-2** the listener closes when the last accepted request has ended, or at the deadline.
//!   Connections in the kernel's queue are accepted and answered before that.
//! - **END-3** at the deadline, `drain_timeout` after the signal, every request without an answer is
//!   answered with 503 `draining`, and every stream ends with an error event of that code. This does not
//!   wait for an engine: a hung engine does not delay it.
//! - **END-4** after another `farewell_timeout` the remaining connections are closed. Only an answer that
//!   its client has not read to its end counts as cut off.

use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use playhouse_listener::Phase;
use playhouse_listener::Phases;

/// The phase of a server, and the number of requests that did not end by themselves.
#[derive(Debug, Default)]
pub(crate) struct Shutdown {
    phases: Phases,
    ended: AtomicU32,
}

// === impl Shutdown ===

impl Shutdown {
    /// Returns the phases that the listener advances.
    pub(crate) fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Returns whether `phase` has begun.
    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.phases.is(phase)
    }

    /// Completes when `phase` has begun.
    pub(crate) fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        self.phases.reached(phase)
    }

    /// Counts a request that was told of the shutdown.
    pub(crate) fn ended_one(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of requests that were told of the shutdown.
    pub(crate) fn ended(&self) -> u32 {
        self.ended.load(Ordering::Relaxed)
    }
}
