//! Plays the scheduler: a plan per step for given sequences, chunk size and blocks.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use playhouse_engine::{EngineConfig, EngineEvent, StepPort, spawn};
use playhouse_model::{Checkpoint, Dtype, Groups, Model, Shard, Weights, checkpoint_shape};
use playhouse_ops::Threads;
use playhouse_types::{
    Admitted, Appended, BlockId, BlockSize, Epoch, Logits, Run, RunOutcome, Sampled,
    SamplingParams, Slot, StepId, StepOutcome, StepPlan, TokenId, TokenLogprobs,
};

pub(crate) const EPOCH: Epoch = Epoch(3);
const KV_BLOCKS: u32 = 512;
const SLOTS: usize = 32;
/// Events nobody has looked at yet; a driver has one step in flight.
const EVENTS_MAX: usize = 4;

/// An engine and its last step.
pub(crate) struct Driver {
    pub(crate) port: StepPort,
    pub(crate) events: Receiver<EngineEvent>,
    pub(crate) thread: JoinHandle<()>,
    next_step: u64,
    free: Vec<BlockId>,
}

/// A prompt and how to go on from it.
#[derive(Clone)]
pub(crate) struct Sequence {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) sampling: SamplingParams,
    /// Blocks that hold its first tokens already.
    pub(crate) cached: Vec<BlockId>,
}

/// What a sequence gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Generated {
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    pub(crate) sampled: Vec<Sampled>,
    pub(crate) blocks: Vec<BlockId>,
}

struct Progress {
    fed: usize,
    known: usize,
    /// Sampled, and not yet told to the engine.
    unsaid: Option<TokenId>,
    generated: Generated,
}

pub(crate) fn reference() -> PathBuf {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference"));
    assert!(folder.is_dir(), "{}: the reference checkpoints belong there", folder.display());
    folder.to_owned()
}

/// Every case of the reference folder, in order of name.
pub(crate) fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(reference()).unwrap();
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.join("reference.json").exists());
    cases.sort();
    assert!(!cases.is_empty(), "{}: no reference checkpoint", reference().display());
    cases
}

pub(crate) fn load(folder: &Path, threads: usize) -> Arc<Model> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let shape = checkpoint_shape(&checkpoint).unwrap();
    let dtype = Dtype::Auto.or(shape.dtype);
    let shard = Shard::whole(&shape.spec);
    let weights = Weights::load(&checkpoint, &shape.spec, &shard, dtype, |_, _| ()).unwrap();
    let threads = Threads::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Model::new(&shape.spec, weights, Groups::solo(), threads.into()))
}

/// `count` token ids that look random and are the same every time.
pub(crate) fn tokens(count: usize, seed: u64, vocab: usize) -> Vec<TokenId> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab as u64) as TokenId
    };
    (0..count).map(|_| next()).collect()
}

// === impl Sequence ===

impl Sequence {
    /// Greedy, with every log-probability there is.
    pub(crate) fn greedy(prompt: Vec<TokenId>, steps: usize) -> Self {
        let mut sampling = SamplingParams::greedy(steps as u32);
        (sampling.logprobs, sampling.prompt_logprobs) = (Some(20), Some(20));
        Self { prompt, sampling, cached: Vec::new() }
    }
}

// === impl Driver ===

impl Driver {
    pub(crate) fn new(model: &Arc<Model>) -> Self {
        let config = EngineConfig {
            epoch: EPOCH,
            kv_blocks: KV_BLOCKS as usize,
            block_size: BlockSize::CPU,
            max_num_seqs: SLOTS,
        };
        let (sender, events) = sync_channel(EVENTS_MAX);
        let on_event = move |event| {
            let _ = sender.send(event);
        };
        let (port, thread) = {
            let model = Arc::clone(model);
            spawn(move || Ok(model), config, on_event)
        }
        .unwrap();
        assert!(matches!(events.recv(), Ok(EngineEvent::Ready { epoch: EPOCH })));
        // 197 is prime to 512: every block once, neighbours far apart.
        let free = (0..KV_BLOCKS).map(|i| BlockId(i * 197 % KV_BLOCKS)).collect();
        Self { port, events, thread, next_step: 0, free }
    }

    /// A plan with the next number.
    pub(crate) fn plan(&mut self, admitted: Vec<Admitted>, runs: Vec<Run>) -> StepPlan {
        let step = StepId(self.next_step);
        self.next_step += 1;
        StepPlan { epoch: EPOCH, step, released: Vec::new(), admitted, runs }
    }

    pub(crate) fn outcome(&self) -> StepOutcome {
        match self.events.recv().unwrap() {
            EngineEvent::Step(outcome) => outcome,
            other => panic!("no outcome: {other:?}"),
        }
    }

    /// Runs all sequences to their `max_tokens`, each step feeding up to `chunk` prompt tokens or
    /// one sampled token of each.
    pub(crate) fn generate(&mut self, sequences: &[Sequence], chunk: usize) -> Vec<Generated> {
        let mut progress: Vec<_> = sequences.iter().map(Progress::new).collect();
        let mut admitted: Vec<_> = (0..).zip(sequences).map(|(slot, s)| s.admitted(slot)).collect();
        loop {
            let mut runs = Vec::new();
            for (slot, (sequence, progress)) in (0..).zip(sequences.iter().zip(&mut progress)) {
                if progress.generated.sampled.len() < sequence.sampling.max_tokens as usize {
                    runs.push(progress.run(Slot(slot), sequence, chunk, &mut self.free));
                }
            }
            if runs.is_empty() {
                break;
            }
            let plan = self.plan(std::mem::take(&mut admitted), runs);
            self.port.submit(plan).unwrap();
            for run in self.outcome().runs {
                progress[run.slot.0 as usize].settle(run);
            }
        }
        let mut plan = self.plan(Vec::new(), Vec::new());
        plan.released = (0..sequences.len()).map(|slot| Slot(slot as u32)).collect();
        self.port.submit(plan).unwrap();
        assert_eq!(self.outcome().runs, []);
        progress.into_iter().map(|progress| progress.generated).collect()
    }

    /// Runs one sequence to its `max_tokens`, each step planned before the outcome of the one
    /// before it is here.
    pub(crate) fn generate_ahead(&mut self, sequence: &Sequence) -> Vec<Sampled> {
        let (prompt, count) = (sequence.prompt.len() as u32, sequence.sampling.max_tokens);
        let mut blocks = 0;
        let mut sampled = Vec::new();
        for step in 0..count {
            let (start, tokens, appended) = match step {
                0 => (0, prompt, Appended::Nothing),
                _ => (prompt + step - 1, 1, Appended::OwnSample),
            };
            let missing = ((start + tokens) as usize).div_ceil(BlockSize::CPU.tokens()) - blocks;
            let new_blocks = self.free.split_off(self.free.len() - missing);
            blocks += missing;
            let logits = Logits::Last;
            let run = Run { slot: Slot(0), start, tokens, appended, new_blocks, logits };
            let admitted = if step == 0 { vec![sequence.admitted(0)] } else { Vec::new() };
            let plan = self.plan(admitted, vec![run]);
            self.port.submit(plan).unwrap();
            if step > 0 {
                sampled.extend(self.outcome().runs.remove(0).sampled);
            }
        }
        sampled.extend(self.outcome().runs.remove(0).sampled);
        let mut plan = self.plan(Vec::new(), Vec::new());
        plan.released = vec![Slot(0)];
        self.port.submit(plan).unwrap();
        self.outcome();
        sampled
    }

    /// Closes the port and waits for the end.
    pub(crate) fn finish(self) {
        drop(self.port);
        self.thread.join().unwrap();
        assert!(self.events.recv().is_err(), "a closed port is no failure");
    }
}

impl Sequence {
    fn admitted(&self, slot: u32) -> Admitted {
        Admitted {
            slot: Slot(slot),
            tokens: self.prompt.clone().into(),
            prompt_tokens: self.prompt.len() as u32,
            sampling: Arc::new(self.sampling.clone()),
            blocks: self.cached.clone(),
        }
    }
}

// === impl Progress ===

impl Progress {
    fn new(sequence: &Sequence) -> Self {
        let fed = sequence.cached.len() * BlockSize::CPU.tokens();
        let generated = Generated { blocks: sequence.cached.clone(), ..Generated::default() };
        Self { fed, known: sequence.prompt.len(), unsaid: None, generated }
    }

    fn run(
        &mut self,
        slot: Slot,
        sequence: &Sequence,
        chunk: usize,
        free: &mut Vec<BlockId>,
    ) -> Run {
        let (start, count) = (self.fed, chunk.min(self.known - self.fed));
        self.fed += count;
        let blocks = &mut self.generated.blocks;
        let missing = self.fed.div_ceil(BlockSize::CPU.tokens()) - blocks.len();
        let new_blocks = free.split_off(free.len() - missing);
        blocks.extend_from_slice(&new_blocks);
        let logits = match (sequence.sampling.prompt_logprobs, self.fed == self.known) {
            (Some(_), _) if start < sequence.prompt.len() => Logits::All,
            (_, true) => Logits::Last,
            (_, false) => Logits::None,
        };
        let appended = self.unsaid.take().map_or(Appended::Nothing, Appended::Token);
        Run { slot, start: start as u32, tokens: count as u32, appended, new_blocks, logits }
    }

    fn settle(&mut self, outcome: RunOutcome) {
        self.unsaid = outcome.sampled.first().map(|sampled| sampled.token);
        self.known += usize::from(self.unsaid.is_some());
        self.generated.prompt_logprobs.extend(outcome.prompt_logprobs);
        self.generated.sampled.extend(outcome.sampled);
    }
}

impl Driver {
    /// Admits a sequence again after a preemption, with its output so far, and samples once.
    pub(crate) fn resume(&mut self, sequence: &Sequence, output: &[TokenId]) -> TokenId {
        let tokens = [&sequence.prompt[..], output].concat();
        let mut admitted = sequence.admitted(0);
        admitted.tokens = tokens.clone().into();
        let blocks =
            self.free.split_off(self.free.len() - tokens.len().div_ceil(BlockSize::CPU.tokens()));
        let (tokens, logits) = (tokens.len() as u32, Logits::Last);
        let run = Run {
            slot: Slot(0),
            start: 0,
            tokens,
            appended: Appended::Nothing,
            new_blocks: blocks,
            logits,
        };
        let plan = self.plan(vec![admitted], vec![run]);
        self.port.submit(plan).unwrap();
        let sampled = self.outcome().runs[0].sampled[0].clone();
        let mut plan = self.plan(Vec::new(), Vec::new());
        plan.released = vec![Slot(0)];
        self.port.submit(plan).unwrap();
        self.outcome();
        sampled.token
    }
}
