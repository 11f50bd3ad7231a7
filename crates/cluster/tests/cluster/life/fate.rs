//! The course of one simulated cluster, drawn by its seed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A virtual time after which a simulation must have ended: it takes seconds, and a hang is noticed within
/// minutes.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// The events of one simulation, drawn by its seed.
pub(crate) struct Fate {
    /// The state of SplitMix64.
    state: AtomicU64,
    began: Instant,
    /// A hash of every draw and its time: two simulations with the same hash took the same course.
    course: AtomicU64,
    /// Whether no more faults happen.
    calm: AtomicBool,
    /// The number of hangs that may still happen: a request that hangs its engine three times in a row fails.
    hangs_left: AtomicU64,
}

// === impl Fate ===

impl Fate {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU64::new(seed),
            began: Instant::now(),
            course: AtomicU64::new(seed),
            calm: AtomicBool::new(false),
            hangs_left: AtomicU64::new(2),
        })
    }

    pub(crate) fn below(&self, count: u64) -> u64 {
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.note(count);
        (z ^ (z >> 31)) % count
    }

    /// Records an event in the course of this simulation.
    pub(crate) fn note(&self, what: u64) {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let course = self.course.load(Ordering::Relaxed) ^ now.rotate_left(16) ^ what;
        // The prime of FNV.
        self.course.store(course.wrapping_mul(0x0100_0000_01b3), Ordering::Relaxed);
    }

    /// Returns the hash of the course so far.
    pub(crate) fn course(&self) -> u64 {
        self.course.load(Ordering::Relaxed)
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }

    /// Ends all faults from now on.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Returns true once in `times` calls on average, until [`calm_down`](Self::calm_down).
    pub(crate) fn strikes(&self, times: u64) -> bool {
        self.below(times) == 0 && !self.calm.load(Ordering::Relaxed)
    }

    pub(crate) fn hangs(&self) -> bool {
        let left = |left: u64| left.checked_sub(1);
        let order = Ordering::Relaxed;
        self.strikes(400) && self.hangs_left.fetch_update(order, order, left).is_ok()
    }
}
