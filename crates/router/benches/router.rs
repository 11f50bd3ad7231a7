//! What routing costs with a large index, and what it gains on a trace.
//!
//! `cargo bench -p playhouse-router` prints two tables.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, reason = "the tables are the product")]

use std::time::{Duration, Instant};

use playhouse_router::{Ask, Load, Policy, Router};
use playhouse_types::{BlockSize, Epoch, PrefixEvent, ReplicaId};

#[path = "../tests/router/trace/play.rs"]
mod play;

use play::{Outcome, PREFIXES, TURNS, below, play};

const REPLICAS: usize = 64;
/// Sequences in the caches, of [`LENGTH`] blocks each: a million blocks.
const SEQUENCES: usize = 4096;
const LENGTH: usize = 256;
/// Blocks that an update takes out of a cache, and puts into it.
const CHANGED: usize = 16;
const ROUNDS: usize = 400_000;

/// A router with full caches.
struct Bench {
    router: Router,
    /// Names of blocks. The n-th sequence is in the cache of replica n modulo [`REPLICAS`].
    sequences: Vec<Vec<u64>>,
    /// The number of the next event of each replica.
    events: Vec<u64>,
    accepted: Vec<u64>,
    random: u64,
    picks: Vec<Duration>,
    updates: Vec<Duration>,
}

fn main() {
    let mut bench = Bench::new();
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| bench.round());
    let (all, calls) = (start.elapsed(), bench.picks.len() + bench.updates.len());
    let busy: Duration = bench.picks.iter().chain(&bench.updates).sum();
    println!("{REPLICAS} replicas, {} blocks; microseconds", SEQUENCES * LENGTH);
    println!("{:<52} {:>6} {:>6} {:>7}", "call", "p50", "p99", "max");
    row("pick for a prompt of 17 to 272 blocks", &mut bench.picks);
    row("update: load, 16 blocks removed, 16 stored", &mut bench.updates);
    let rate = |time: Duration| calls as f64 / time.as_secs_f64();
    println!("{:.0} calls/s; {:.0} with the making of their arguments", rate(busy), rate(all));
    let start = Instant::now();
    bench.router.remove(ReplicaId(0));
    println!("to forget a replica: {:.1} ms\n", start.elapsed().as_secs_f64() * 1e3);
    trace();
}

fn row(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{name:<52} {:>6.1} {:>6.1} {:>7.1}", at(0.5), at(0.99), at(1.0));
}

fn trace() {
    println!("{PREFIXES} conversations of {TURNS} turns; the worst of 10 seeds");
    println!("{:<14} {:>8} {:>6} {:>9} {:>7}", "policy", "replicas", "hits", "imbalance", "steps");
    for replicas in [2, 4, 8] {
        for policy in [Policy::Prefix, Policy::RoundRobin, Policy::LeastLoad, Policy::PowerOfTwo] {
            let outcomes: Vec<_> = (1..=10).map(|seed| play(policy, replicas, seed)).collect();
            let hits = outcomes.iter().map(Outcome::hits).fold(1.0, f64::min);
            let imbalance = outcomes.iter().map(|outcome| outcome.imbalance).fold(0.0, f64::max);
            let steps = outcomes.iter().map(|outcome| outcome.steps).max().expect("ten outcomes");
            println!("{policy:<14} {replicas:>8} {hits:>6.3} {imbalance:>9.2} {steps:>7}");
        }
    }
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        let mut router = Router::new(Policy::Prefix, 1);
        (0..REPLICAS as u32).map(ReplicaId).for_each(|replica| router.add(replica));
        let mut bench = Self {
            router,
            sequences: Vec::new(),
            events: vec![0; REPLICAS],
            accepted: vec![0; REPLICAS],
            random: 1,
            picks: Vec::new(),
            updates: Vec::new(),
        };
        for at in 0..SEQUENCES {
            let names = bench.names(LENGTH);
            bench.tell(at % REPLICAS, PrefixEvent::Stored(names.clone()));
            bench.sequences.push(names);
        }
        bench
    }

    /// A request that goes on from some point of some sequence, and the end of another.
    fn round(&mut self) {
        let sequence = below(&mut self.random, SEQUENCES as u64) as usize;
        let known = 1 + below(&mut self.random, LENGTH as u64) as usize;
        let new = self.names(CHANGED);
        let hashes = [&self.sequences[sequence][..known], &new].concat();
        let tokens = (hashes.len() * BlockSize::CPU.tokens() + 1) as u32;
        let start = Instant::now();
        let pick = self.router.pick(
            &Ask { hashes: &hashes, block_size: BlockSize::CPU, tokens, session: None },
            |_| true,
        );
        self.picks.push(start.elapsed());
        self.accepted[pick.expect("there are replicas").replica.0 as usize] += 1;

        let ended = below(&mut self.random, SEQUENCES as u64) as usize;
        let at = ended % REPLICAS;
        let tail = self.sequences[ended].split_off(LENGTH - CHANGED);
        self.sequences[ended].extend(&new);
        let load = Load {
            accepted: self.accepted[at],
            queued_tokens: below(&mut self.random, 4096),
            running: 8,
            waiting: 0,
            kv_used_blocks: 1000,
            kv_total_blocks: (SEQUENCES * LENGTH / REPLICAS) as u32,
        };
        let (removed, stored) = (PrefixEvent::Removed(tail), PrefixEvent::Stored(new));
        let start = Instant::now();
        self.router.report(ReplicaId(at as u32), load);
        self.tell(at, removed);
        self.tell(at, stored);
        self.updates.push(start.elapsed());
    }

    fn tell(&mut self, at: usize, event: PrefixEvent) {
        self.router.apply(ReplicaId(at as u32), Epoch(1), self.events[at], &event);
        self.events[at] += 1;
    }

    fn names(&mut self, count: usize) -> Vec<u64> {
        (0..count).map(|_| below(&mut self.random, u64::MAX)).collect()
    }
}
