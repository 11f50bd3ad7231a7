//! What a step costs the scheduler: `plan_step` and `apply` with 256 requests running.
//!
//! `cargo bench -p playhouse-scheduler` prints a table. The outcome of each step is made outside of
//! the measured time, as the engine makes it.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use playhouse_scheduler::{Limits, Scheduler};
use playhouse_types::{
    Epoch, GenerateRequest, Logits, RequestId, RunOutcome, Sampled, SamplingParams, StepOutcome,
    StepPlan, TokenId,
};

const RUNNING: usize = 256;
const STEPS: usize = 20_000;

/// One row of the table.
struct Load {
    name: &'static str,
    /// Tokens of a prompt, from and to.
    prompt: (usize, usize),
    /// Of these, tokens which every prompt begins with.
    shared: usize,
    /// Tokens to generate, from and to.
    output: (u32, u32),
    kv_blocks: u32,
    /// Plans in flight at once.
    depth: usize,
    prefix_caching: bool,
}

const LOADS: [Load; 6] = [
    Load {
        name: "decode only",
        prompt: (512, 4096),
        shared: 0,
        output: (1_000_000, 1_000_000),
        kv_blocks: 450_000,
        depth: 1,
        prefix_caching: true,
    },
    Load {
        name: "chat: arrivals, ends, chunked prefill",
        prompt: (256, 4096),
        shared: 0,
        output: (64, 512),
        kv_blocks: 80_000,
        depth: 1,
        prefix_caching: true,
    },
    Load {
        name: "chat, no prefix cache",
        prompt: (256, 4096),
        shared: 0,
        output: (64, 512),
        kv_blocks: 80_000,
        depth: 1,
        prefix_caching: false,
    },
    Load {
        name: "chat, 2,000 tokens of every prompt shared",
        prompt: (2048, 4096),
        shared: 2000,
        output: (64, 512),
        kv_blocks: 80_000,
        depth: 1,
        prefix_caching: true,
    },
    Load {
        name: "chat, two plans in flight",
        prompt: (256, 4096),
        shared: 0,
        output: (64, 512),
        kv_blocks: 80_000,
        depth: 2,
        prefix_caching: true,
    },
    Load {
        name: "short of blocks: half as many as wanted",
        prompt: (256, 4096),
        shared: 0,
        output: (64, 512),
        kv_blocks: 20_000,
        depth: 1,
        prefix_caching: true,
    },
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
    println!("plan_step + apply, microseconds per step, {STEPS} steps");
    println!("{:<44} {:>8} {:>7} {:>7} {:>7} {:>8}", "load", "running", "p50", "p90", "p99", "max");
    for load in &LOADS {
        let mut bench = Bench::new(load);
        // Past the first prefills, to where requests end as often as they arrive.
        for _ in 0..4_000 {
            bench.step();
        }
        let mut running = 0;
        let mut times: Vec<Duration> = (0..STEPS)
            .map(|_| {
                running += bench.scheduler.stats().running;
                bench.step()
            })
            .collect();
        times.sort_unstable();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        println!(
            "{:<44} {:>8} {:>7.1} {:>7.1} {:>7.1} {:>8.1}",
            load.name,
            running / STEPS,
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
    enqueue();
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
            max_num_batched_tokens: 8192,
            max_model_len: 1 << 20,
            kv_blocks: load.kv_blocks,
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
            let emissions = self.scheduler.apply(outcome, now);
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
        self.scheduler.enqueue(request, self.clock.elapsed()).expect("the context is long enough");
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
        sampled: (run.logits == Logits::Last).then_some(Sampled { token: 17, logprobs: None }),
        prompt_logprobs: Vec::new(),
    });
    StepOutcome { epoch: plan.epoch, step: plan.step, runs: runs.collect() }
}
