//! The fuse, by which a group ends for all of its ranks at once.
//!
//! - **FU-1** a group ends once: the first cause stays, and every rank of the machine reads that cause.
//! - **FU-2** every sleeping thread is woken: the ranks of the machine, and this process's connections, which
//!   tell the other machines.

use std::sync::atomic::Ordering;

use super::bell::Bell;
use super::memory::Place;
use super::segment::Header;
use crate::error::Cause;

/// A fuse that ends a group, from any thread.
#[derive(Debug)]
pub(super) struct Fuse {
    header: Place<Header>,
    /// Bells of the ranks of this machine, and of the connections of this rank.
    bells: Vec<Place<Bell>>,
}

// === impl Fuse ===

impl Fuse {
    pub(super) fn new(header: Place<Header>, bells: Vec<Place<Bell>>) -> Self {
        Self { header, bells }
    }

    /// Returns the reason why the group is over, if it is.
    pub(super) fn cause(&self) -> Option<Cause> {
        Cause::from_word(self.header.cause.load(Ordering::Acquire))
    }

    /// Ends the group, and returns why it ended: an earlier cause wins (**FU-1**).
    pub(super) fn blow(&self, cause: Cause) -> Cause {
        let (before, word) = (&self.header.cause, cause.to_word());
        let blown = before.compare_exchange(0, word, Ordering::AcqRel, Ordering::Acquire);
        self.bells.iter().for_each(|bell| bell.ring());
        blown.err().and_then(Cause::from_word).unwrap_or(cause)
    }
}
