//! What happens in a life of a cluster, drawn by its seed; and many lives, one after the other.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::Instant;

/// Of the virtual clock: a life takes seconds, and what hangs is seen after minutes at most.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// What happens in a life, drawn by its seed.
pub(crate) struct Fate {
    /// Of SplitMix64.
    state: AtomicU64,
    began: Instant,
    /// A sum over what was drawn, and when: two lives that have the same took the same course.
    course: AtomicU64,
    /// Nothing goes wrong any more.
    calm: AtomicBool,
    /// A request that hangs its engine three times in a row fails, so that is left out.
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

    /// What happens now is a part of the course of this life.
    pub(crate) fn note(&self, what: u64) {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let course = self.course.load(Ordering::Relaxed) ^ now.rotate_left(16) ^ what;
        // The prime of FNV.
        self.course.store(course.wrapping_mul(0x0100_0000_01b3), Ordering::Relaxed);
    }

    /// Tells lives apart.
    pub(crate) fn course(&self) -> u64 {
        self.course.load(Ordering::Relaxed)
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Once in so many times, while it is not calm.
    pub(crate) fn strikes(&self, times: u64) -> bool {
        self.below(times) == 0 && !self.calm.load(Ordering::Relaxed)
    }

    pub(crate) fn hangs(&self) -> bool {
        let left = |left: u64| left.checked_sub(1);
        let order = Ordering::Relaxed;
        self.strikes(400) && self.hangs_left.fetch_update(order, order, left).is_ok()
    }
}

/// Lives as many lives as there shall be, `lives` unless the environment says how many or which one. The
/// seed of one that goes wrong is printed.
#[expect(clippy::print_stderr, reason = "the seed is for whoever reads the failure")]
pub(crate) fn live_all(lives: u64, live: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("PLAYHOUSE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PLAYHOUSE_SIMULATION_SEEDS").unwrap_or(lives),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| live(seed))) {
            eprintln!("PLAYHOUSE_SIMULATION_SEED={seed} lives that again");
            resume_unwind(panic);
        }
    }
}

/// Lives one life, on a clock of its own.
#[allow(unexpected_cfgs, reason = "what is unstable of tokio is for those who ask for it")]
pub(crate) fn alone<L: Future>(life: L) -> L::Output {
    let mut runtime = Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    runtime.rng_seed(tokio::runtime::RngSeed::from_bytes(b"one course"));
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(life)
}
