//! Departures: how a holder of requests learns that callers have left, wherever their requests are.
//!
//! A caller leaves by closing the channel of its request: that *is* the cancellation. No message has to
//! find the request. Each holder looks at the channel of every request that it takes in, and looks at
//! all of them again when [`Departures`] says that a caller has left.
//!
//! - **DE-1** a request whose caller has left is noticed, however it moves: its channel is closed
//!   before any holder is told, and a holder lowers the flag before it looks.
//! - **DE-2** many callers that leave at once tell each holder once.

use crate::sync::{AtomicBool, Ordering};

/// A flag: whether callers have left since the holder looked last.
#[derive(Debug, Default)]
pub(crate) struct Departures(AtomicBool);

// === impl Departures ===

impl Departures {
    /// Raises the flag, because a caller has closed its channel. Returns whether the holder has to be
    /// told; otherwise it was told before, and has not looked yet.
    pub(crate) fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Lowers the flag, because the holder is about to look at all its requests.
    pub(crate) fn lower(&self) {
        // A swap, not a store: it comes after every `raise` that it overwrites, and so after what the
        // caller did before that. A `raise` that comes later finds the flag down.
        self.0.swap(false, Ordering::AcqRel);
    }
}
