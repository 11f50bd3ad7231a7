//! What a step costs the scheduler: `plan_step` and `apply` with 256 requests running.
//!
//! `cargo bench -p playhouse-scheduler` prints a table. The outcome of each step is made outside of
//! the measured time, as the engine makes it. The same calls take the same way through the scheduler,
//! so every load is played several times and the least time of each step counts: what is left is the
//! scheduler's own, whatever else the machine was doing.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use playhouse_scheduler::{HashedRequest, Limits, Scheduler, Terms};
use playhouse_types::{
    BlockSize, Epoch, GenerateRequest, Logits, RequestId, RunOutcome, Sampled, SamplingParams,
    StepOutcome, StepPlan, TokenId,
};

const RUNNING: usize = 256;
/// Steps measured, after [`WARMUP`] steps to where requests end as often as they arrive.
const STEPS: usize = 10_000;
const WARMUP: usize = 4_000;
const PLAYS: usize = 5;

/// One row of the table.
struct Load {
    name: &'static str,
    /// Tokens of a prompt, from and to.
    prompt: (usize, usize),
    /// Of these, tokens which every prompt begins with.
    shared: usize,
    /// Tokens to generate, from and to.
    output: (u32, u32),
    /// Tokens per step.
    budget: usize,
    kv_blocks: u32,
    /// Plans in flight at once.
    depth: usize,
    prefix_caching: bool,
}

/// A busy chat service: 2,048 tokens per step, blocks for twice what is running.
const CHAT: Load = Load {
    name: "chat: arrivals, ends, chunked prefill",
    prompt: (256, 4096),
    shared: 0,
    output: (64, 512),
    budget: 2048,
    kv_blocks: 80_000,
    depth: 1,
    prefix_caching: true,
};

const LOADS: [Load; 7] = [
    Load {
        name: "decode only",
        prompt: (512, 4096),
        output: (1_000_000, 1_000_000),
        budget: 8192,
        kv_blocks: 450_000,
        ..CHAT
    },
    CHAT,
    Load { name: "chat, 8,192 tokens per step", budget: 8192, ..CHAT },
    Load { name: "chat, no prefix cache", prefix_caching: false, ..CHAT },
    Load {
        name: "chat, 2,000 tokens of every prompt shared",
        prompt: (2048, 4096),
        shared: 2000,
        ..CHAT
    },
    Load { name: "chat, a plan ahead of the outcome", depth: 2, ..CHAT },
    Load { name: "chat, half the blocks that are wanted", kv_blocks: 20_000, ..CHAT },
];

/// Keeps a scheduler supplied with requests, and plays the engine.
struct Bench {
    load: &'static Load,
    scheduler: Scheduler,
    random: u64,
    next_id: u64,
    in_flight: VecDeque<StepPlan>,
    clock: Instant,
}

fn main() {
    println!("plan_step + apply, microseconds per step, {STEPS} steps, best of {PLAYS}");
    println!("{:<44} {:>8} {:>7} {:>7} {:>7} {:>8}", "load", "running", "p50", "p90", "p99", "max");
    for load in &LOADS {
        let (mut times, mut running) = play(load);
        for _ in 1..PLAYS {
            let again;
            (again, running) = play(load);
            times.iter_mut().zip(again).for_each(|(least, time)| *least = time.min(*least));
        }
        times.sort_unstable();
        let at = |share: f64| times[((STEPS - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(at);
        let name = load.name;
        println!("{name:<44} {running:>8} {p50:>7.1} {p90:>7.1} {p99:>7.1} {max:>8.1}");
    }
    enqueue();
}

/// The time of every step, and how many requests were running on average.
fn play(load: &'static Load) -> (Vec<Duration>, usize) {
    let mut bench = Bench::new(load);
    for _ in 0..WARMUP {
        bench.step();
    }
    let mut running = 0;
    let mut step = |_| {
        running += bench.scheduler.stats().running;
        bench.step()
    };
    let times = (0..STEPS).map(&mut step).collect();
    (times, running / STEPS)
}

fn enqueue() {
    let mut bench = Bench::new(&LOADS[0]);
    let prompt: Arc<[TokenId]> = (0..32_768).collect();
    let mut times: Vec<Duration> = (0..200).map(|_| bench.enqueue(Arc::clone(&prompt))).collect();
    times.sort_unstable();
    println!("enqueue of a prompt of 32,768 tokens: p50 {:.0} us", times[100].as_secs_f64() * 1e6);
}

// === impl Bench ===

impl Bench {
    fn new(load: &'static Load) -> Self {
        let limits = Limits {
            max_num_seqs: RUNNING,
            max_num_batched_tokens: load.budget,
            prefill_time: Duration::MAX,
            max_model_len: 1 << 20,
            kv_blocks: load.kv_blocks,
            block_size: BlockSize::CPU,
            micro_batches: 1,
            micro_batch_max: usize::MAX,
            lookahead: load.depth > 1,
            prefix_caching: load.prefix_caching,
        };
        let mut bench = Self {
            load,
            scheduler: Scheduler::new(limits, Epoch(1)),
            random: 1,
            next_id: 0,
            in_flight: VecDeque::new(),
            clock: Instant::now(),
        };
        bench.refill();
        bench
    }

    /// Time taken to plan one step and to apply another.
    fn step(&mut self) -> Duration {
        self.refill();
        let now = self.clock.elapsed();
        let start = Instant::now();
        let plan = self.scheduler.plan_step(now);
        let mut time = start.elapsed();
        self.in_flight.extend(plan);
        if self.in_flight.len() == self.load.depth {
            let outcome = outcome(&self.in_flight.pop_front().expect("a plan is in flight"));
            let start = Instant::now();
            let emissions = self.scheduler.apply(outcome, now).expect("it is that of the plan");
            time += start.elapsed();
            assert!(emissions.len() <= RUNNING);
            self.scheduler.take_timings();
        }
        time
    }

    /// Eight requests are always waiting.
    fn refill(&mut self) {
        let stats = self.scheduler.stats();
        for _ in stats.running + stats.waiting..RUNNING + 8 {
            let shared = self.load.shared;
            let length = self.between(self.load.prompt.0, self.load.prompt.1);
            let token = |bench: &mut Self, at| match at < shared {
                true => at as TokenId,
                false => bench.between(0, 150_000) as TokenId,
            };
            let prompt: Vec<TokenId> = (0..length).map(|at| token(self, at)).collect();
            self.enqueue(prompt.into());
        }
    }

    fn enqueue(&mut self, prompt: Arc<[TokenId]>) -> Duration {
        let (least, most) = self.load.output;
        let max_tokens = self.between(least as usize, most as usize) as u32;
        let sampling = Arc::new(SamplingParams {
            stop_tokens: vec![150_001, 150_002],
            ..SamplingParams::greedy(max_tokens)
        });
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let request = GenerateRequest { id, prompt, sampling, cache_salt: 0 };
        let start = Instant::now();
        let hashed = HashedRequest::new(request, self.scheduler.limits());
        let accepted = self.scheduler.enqueue(hashed, Terms::default(), self.clock.elapsed());
        accepted.expect("the context is long enough");
        start.elapsed()
    }

    /// Uniform in `least..=most`; xorshift64.
    fn between(&mut self, least: usize, most: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        least + (self.random % (most - least + 1) as u64) as usize
    }
}

/// What an engine that always samples the same token returns.
fn outcome(plan: &StepPlan) -> StepOutcome {
    let runs = plan.runs.iter().map(|run| RunOutcome {
        slot: run.slot,
        sampled: (run.logits == Logits::Last)
            .then_some(Sampled { token: 17, logprobs: None })
            .into_iter()
            .collect(),
        prompt_logprobs: Vec::new(),
    });
    StepOutcome { epoch: plan.epoch, step: plan.step, runs: runs.collect() }
}
