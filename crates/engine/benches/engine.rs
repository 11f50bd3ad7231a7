//! Decode and prefill speed of the engine on a random model of the shape of Qwen2.5-0.5B, in bf16.
//!
//! `cargo bench -p playhouse-engine` prints a table. Threads: `BENCH_THREADS`, 2 by default.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "a benchmark measures and prints"
)]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use playhouse_engine::{EngineConfig, EngineEvent, StepPort, spawn};
use playhouse_layout::{Inventory, ModelShape};
use playhouse_model::{Dtype, Groups, KvCache, Model, Weights};
use playhouse_ops::Threads;
use playhouse_types::{
    Admitted, Appended, BlockId, BlockSize, Epoch, Logits, Run, SamplingParams, Slot, StepId,
    StepOutcome, StepPlan, TokenId,
};

const CONFIG: &str = r#"{
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "tie_word_embeddings": true, "max_position_embeddings": 32768
}"#;
const EPOCH: Epoch = Epoch(0);
const SLOTS: u32 = 16;
/// Tokens of a sequence at most.
const SLOT_TOKENS: usize = 640;
const SLOT_BLOCKS: usize = BlockSize::CPU.full_blocks(SLOT_TOKENS);

struct Bench {
    port: StepPort,
    events: Receiver<EngineEvent>,
    steps: u64,
}

fn main() {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|count| count.parse().ok());
    let threads = Threads::new(threads.or(NonZeroUsize::new(2)).expect("2 is not 0"));
    let shape = ModelShape::parse(CONFIG.as_bytes()).expect("the config is valid");
    let spec = &shape.spec;
    let weights = Weights::random(spec, Dtype::Bf16, 1).expect("there is memory");
    let (parameters, bandwidth) = (Inventory::of(&shape).parameters(), read_bandwidth(&threads));
    println!(
        "{} M parameters in bf16, {} threads, {:?}; memory is read at {:.1} GB/s",
        parameters / 1_000_000,
        threads.count(),
        threads.isa(),
        bandwidth / 1e9,
    );
    println!(
        "KV cache: {} bytes per block",
        KvCache::bytes_per_block(spec, BlockSize::CPU, weights.dtype())
    );

    let model = Model::new(spec, weights, Groups::solo(), threads.into());
    let mut bench = Bench::new(model);
    println!("{:<38} {:>9} {:>12} {:>16}", "", "tok/s", "ms per step", "limit (tok/s)");
    let memory_limit = bandwidth / (2.0 * parameters as f64);
    for (batch, context, temperature) in
        [(1, 128, 0.0), (1, 512, 0.0), (1, 128, 1.0), (4, 128, 0.0), (16, 128, 0.0), (16, 128, 1.0)]
    {
        let step = bench.decode(batch, context, temperature);
        let name = format!("decode, batch {batch}, context {context}, T = {temperature}");
        report(&name, batch as usize, step, Some(memory_limit * f64::from(batch)));
    }
    for tokens in [64, 512] {
        let step = bench.prefill(tokens);
        report(&format!("prefill, {tokens} tokens"), tokens, step, None);
    }
}

fn report(name: &str, tokens: usize, step: Duration, limit: Option<f64>) {
    let limit = limit.map_or_else(String::new, |limit| format!("{limit:.0} (memory)"));
    let rate = tokens as f64 / step.as_secs_f64();
    println!("{name:<38} {rate:>9.1} {:>12.2} {limit:>16}", 1e3 * step.as_secs_f64());
}

/// Bytes per second that all threads together read from memory.
fn read_bandwidth(threads: &Threads) -> f64 {
    const WORDS: usize = 1 << 26;
    let words = vec![1_u64; WORDS];
    let part = WORDS.div_ceil(threads.count());
    let pass = || {
        let start = Instant::now();
        threads.run(threads.count(), |index| {
            let sum = words.chunks(part).nth(index).map(|part| part.iter().fold(0, |a, b| a ^ b));
            black_box(sum);
        });
        start.elapsed()
    };
    let fastest = (0..5).map(|_| pass()).min().expect("five passes");
    (WORDS * size_of::<u64>()) as f64 / fastest.as_secs_f64()
}

// === impl Bench ===

impl Bench {
    fn new(model: Model) -> Self {
        let kv_blocks = SLOTS as usize * SLOT_BLOCKS;
        let config = EngineConfig {
            epoch: EPOCH,
            kv_blocks,
            block_size: BlockSize::CPU,
            max_num_seqs: SLOTS as usize,
        };
        let (sender, events) = sync_channel(1);
        let on_event = move |event| {
            let _ = sender.send(event);
        };
        let (port, _) =
            spawn(move || Ok(Arc::new(model)), config, on_event).expect("a thread starts");
        assert!(matches!(events.recv(), Ok(EngineEvent::Ready { .. })));
        Self { port, events, steps: 0 }
    }

    fn step(
        &mut self,
        released: Vec<Slot>,
        admitted: Vec<Admitted>,
        runs: Vec<Run>,
    ) -> StepOutcome {
        let step = StepId(self.steps);
        self.steps += 1;
        self.port
            .submit(StepPlan { epoch: EPOCH, step, released, admitted, runs })
            .expect("one step at a time");
        match self.events.recv().expect("the engine runs") {
            EngineEvent::Step(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Fills `batch` slots with `context` tokens each, and returns the time that took.
    fn fill(&mut self, batch: u32, context: usize, temperature: f32) -> Duration {
        let sampling = Arc::new(SamplingParams { temperature, ..SamplingParams::greedy(u32::MAX) });
        let tokens: Vec<TokenId> = (0..context as u32).map(|i| 7 + i * 37 % 150_000).collect();
        let admitted = |slot| Admitted {
            slot: Slot(slot),
            tokens: tokens.clone().into(),
            prompt_tokens: context as u32,
            sampling: Arc::clone(&sampling),
            blocks: Vec::new(),
        };
        let run = |slot: u32| Run {
            slot: Slot(slot),
            start: 0,
            tokens: context as u32,
            appended: Appended::Nothing,
            new_blocks: (0..SLOT_BLOCKS as u32)
                .map(|block| BlockId(slot * SLOT_BLOCKS as u32 + block))
                .collect(),
            logits: Logits::Last,
        };
        let start = Instant::now();
        self.step(Vec::new(), (0..batch).map(admitted).collect(), (0..batch).map(run).collect());
        start.elapsed()
    }

    fn release(&mut self, batch: u32) {
        self.step((0..batch).map(Slot).collect(), Vec::new(), Vec::new());
    }

    /// Median time of a decode step.
    fn decode(&mut self, batch: u32, context: usize, temperature: f32) -> Duration {
        const STEPS: usize = 24;
        self.fill(batch, context, temperature);
        let mut times = Vec::new();
        for step in 0..STEPS {
            // Any token will do: what matters is how long it takes.
            let run = |slot| Run {
                slot: Slot(slot),
                start: (context + step) as u32,
                tokens: 1,
                appended: Appended::Token(step as TokenId),
                new_blocks: Vec::new(),
                logits: Logits::Last,
            };
            let start = Instant::now();
            self.step(Vec::new(), Vec::new(), (0..batch).map(run).collect());
            times.push(start.elapsed());
        }
        self.release(batch);
        times.sort_unstable();
        times[STEPS / 2]
    }

    /// Fastest of a few prefills: each is long enough to be disturbed.
    fn prefill(&mut self, tokens: usize) -> Duration {
        let pass = |bench: &mut Self| {
            let time = bench.fill(1, tokens, 0.0);
            bench.release(1);
            time
        };
        (0..4).map(|_| pass(self)).min().expect("four passes")
    }
}
