//! The bell by which one thread waits for others, of this process or another.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use rustix::thread::futex;

use super::memory::Shared;

/// A bell that wakes the one thread that sleeps on it. A thread that changes what the sleeper waits for rings
/// it.
///
/// Sleeper and ringer each write one word and then read the other's, with a sequentially
/// consistent fence between: at least one of them sees the other, so no wake is lost.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Bell {
    asleep: AtomicU32,
}

// SAFETY: one atomic.
unsafe impl Shared for Bell {}

// === impl Bell ===

impl Bell {
    /// Wakes the sleeper, if there is one. Costs a fence if there is none.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) != 0 {
            self.asleep.store(0, Ordering::Relaxed);
            // A futex of a live mapping can be woken.
            let _ = futex::wake(&self.asleep, futex::Flags::empty(), 1);
        }
    }

    /// Sleeps until the bell is rung, at most `limit`, unless `ready`. May return early.
    pub(super) fn sleep_unless(&self, limit: Duration, mut ready: impl FnMut() -> bool) {
        self.asleep.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !ready() {
            let limit = limit.try_into().ok();
            // Rung meanwhile, interrupted, timed out: the caller looks in every case.
            let _ = futex::wait(&self.asleep, futex::Flags::empty(), 1, limit.as_ref());
        }
        self.asleep.store(0, Ordering::Relaxed);
    }
}
