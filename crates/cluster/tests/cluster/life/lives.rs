//! Many simulated clusters, on all cores.
//!
//! Each simulation is a *life*: it has a runtime, a clock and a thread of its own, so that its course depends
//! on its seed alone, wherever and beside whatever it runs.

use std::any::Any;
use std::iter::once;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, available_parallelism};

use tokio::runtime::Builder;

/// Runs `live` with each seed below `lives`, or with the seeds that the environment names, on every core.
///
/// # Panics
/// If `live` panics: with the lowest seed for which it does, and its message. No seed is begun after that, and
/// those that were begun end.
pub(crate) fn live_all(lives: u64, live: impl Fn(u64) + Sync) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = match number("PLAYHOUSE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PLAYHOUSE_SIMULATION_SEEDS").unwrap_or(lives),
    };
    if let Some((seed, why)) = first_failure(seeds, &live) {
        panic!("PLAYHOUSE_SIMULATION_SEED={seed} lives this again: {why}");
    }
}

/// Returns the lowest of `seeds` with which `live` panics, and its message.
fn first_failure(seeds: Range<u64>, live: &(impl Fn(u64) + Sync)) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    // Each thread takes the lowest seed that is left, so a failure leaves no lower seed behind.
    let live_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return None;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| live(seed))) {
                end.store(seeds.start, Ordering::Relaxed);
                return Some((seed, message(&*panic)));
            }
        }
    };
    let threads = available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(live_some)).collect();
        let own = live_some();
        let others = others.into_iter().map(|other| other.join().expect("panics are caught"));
        once(own).chain(others).flatten().min()
    })
}

/// Returns the text of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Runs one life on a clock of its own.
#[allow(unexpected_cfgs, reason = "what is unstable of tokio is for those who ask for it")]
pub(crate) fn alone<L: Future>(life: L) -> L::Output {
    let mut runtime = Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    runtime.rng_seed(tokio::runtime::RngSeed::from_bytes(b"one course"));
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(life)
}

#[test]
fn every_seed_is_lived_once() {
    let lived: Vec<_> = (0..1000).map(|_| AtomicU64::new(0)).collect();
    let live = |seed: u64| {
        lived[seed as usize].fetch_add(1, Ordering::Relaxed);
    };
    assert_eq!(first_failure(0..1000, &live), None);
    assert!(lived.iter().all(|times| times.load(Ordering::Relaxed) == 1));
}

#[test]
fn the_lowest_seed_that_fails_is_named() {
    let live = |seed: u64| assert!(seed % 7 != 3, "seed {seed} goes wrong");
    let (seed, why) = first_failure(0..1000, &live).expect("one of seven fails");
    assert_eq!((seed, &*why), (3, "seed 3 goes wrong"));
}
