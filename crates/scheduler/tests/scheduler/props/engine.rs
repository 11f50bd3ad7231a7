//! A tiny engine which believes nothing: it executes plans as a real one would, and panics where a
//! real one would compute garbage.
//!
//! Its model is a hash. The KV entry of a position is the hash of the entry before it (read through
//! the block table) and the token there; the next token is a function of the last entry. A block
//! that was handed out too early, shared wrongly or never computed changes every token after it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use playhouse_scheduler::Limits;
use playhouse_types::{
    Appended, BlockId, BlockSize, FinishReason, GenerateRequest, Logits, Run, RunOutcome, Sampled,
    SamplingParams, Slot, StepOutcome, StepPlan, TokenId, TokenLogprobs,
};

const VOCAB: u64 = 50;

/// The KV entry of one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    history: u64,
    salt: u64,
}

/// One sequence, as executed so far.
struct SlotState {
    tokens: Vec<TokenId>,
    /// Sampled, and not yet brought back by a run.
    unsaid: Option<TokenId>,
    prompt: usize,
    sampling: Arc<SamplingParams>,
    salt: u64,
    table: Vec<BlockId>,
    computed: usize,
}

/// A plan which was received and not executed.
struct Received {
    plan: StepPlan,
    /// Blocks it writes to.
    writes: HashSet<BlockId>,
}

pub(crate) struct Engine {
    limits: Limits,
    kv: Vec<Option<Entry>>,
    slots: HashMap<Slot, SlotState>,
    /// Block tables after everything received.
    tables: HashMap<Slot, Vec<BlockId>>,
    received: VecDeque<Received>,
}

/// Which salt a request has: told by its sampling seed, which is its id.
pub(crate) type Salts = HashMap<u64, u64>;

// === impl Engine ===

impl Engine {
    pub(crate) fn new(limits: Limits) -> Self {
        let positions = limits.kv_blocks as usize * BlockSize::CPU.tokens();
        let (slots, tables) = (HashMap::new(), HashMap::new());
        Self { limits, kv: vec![None; positions], slots, tables, received: VecDeque::new() }
    }

    /// Queues a plan after checking what can be checked before it is executed.
    pub(crate) fn receive(&mut self, plan: StepPlan) {
        let fed: u32 = plan.runs.iter().map(|run| run.tokens).sum();
        assert!(fed as usize <= self.limits.max_num_batched_tokens, "S-6: {fed} tokens in a plan");
        for slot in &plan.released {
            assert!(self.tables.remove(slot).is_some(), "{slot} is released but was not taken");
        }
        let in_flight: HashSet<BlockId> =
            self.received.iter().flat_map(|received| received.writes.iter().copied()).collect();
        for admitted in &plan.admitted {
            assert!((admitted.slot.0 as usize) < self.limits.max_num_seqs, "{}", admitted.slot);
            assert!(admitted.blocks.iter().all(|block| !in_flight.contains(block)), "S-8");
            let before = self.tables.insert(admitted.slot, admitted.blocks.clone());
            assert!(before.is_none(), "{} is admitted but taken", admitted.slot);
        }
        let mut slots = HashSet::new();
        let mut writes = HashSet::new();
        for run in &plan.runs {
            assert!(slots.insert(run.slot), "S-6: two runs of {} in a plan", run.slot);
            assert!(run.new_blocks.iter().all(|block| !in_flight.contains(block)), "S-8");
            let table = self.tables.get_mut(&run.slot).expect("a run has a slot");
            table.extend(&run.new_blocks);
            let (first, last) = (run.start, run.start + run.tokens - 1);
            let range =
                first as usize / BlockSize::CPU.tokens()..=last as usize / BlockSize::CPU.tokens();
            writes.extend(&table[range]);
        }
        self.received.push_back(Received { plan, writes });
    }

    /// Executes the oldest plan.
    pub(crate) fn execute(&mut self, salts: &Salts) -> StepOutcome {
        let plan = self.received.pop_front().expect("a plan was received").plan;
        for slot in &plan.released {
            self.slots.remove(slot);
        }
        for admitted in plan.admitted {
            let salt = salts[&admitted.sampling.seed];
            let state = SlotState {
                tokens: admitted.tokens.to_vec(),
                unsaid: None,
                prompt: admitted.prompt_tokens as usize,
                sampling: admitted.sampling,
                salt,
                computed: admitted.blocks.len() * BlockSize::CPU.tokens(),
                table: admitted.blocks,
            };
            self.slots.insert(admitted.slot, state);
        }
        for run in &plan.runs {
            let state = self.slots.get_mut(&run.slot).expect("a run has a slot");
            state.table.extend(&run.new_blocks);
        }
        let runs = plan.runs.iter().map(|run| self.compute(run)).collect();
        StepOutcome { epoch: plan.epoch, step: plan.step, runs }
    }

    fn compute(&mut self, run: &Run) -> RunOutcome {
        let (start, end) = (run.start as usize, (run.start + run.tokens) as usize);
        self.check_writes(run.slot, start, end);
        let state = self.slots.get_mut(&run.slot).expect("a run has a slot");
        let sampled = state.unsaid.take();
        match run.appended {
            Appended::Nothing => assert_eq!(sampled, None, "a run brings the token before it"),
            Appended::Token(token) => assert_eq!(sampled, Some(token), "the token before it"),
            Appended::OwnSample => {
                assert!(self.limits.lookahead, "every rank samples alike");
                assert!(sampled.is_some(), "a token was sampled before");
            }
        }
        state.tokens.extend(sampled);
        assert_eq!(start, state.computed, "runs of {} are contiguous", run.slot);
        assert!(
            start < end && end <= state.tokens.len(),
            "{start}..{end} of {}",
            state.tokens.len()
        );
        let mut history = 0;
        for (position, &token) in state.tokens[..end].iter().enumerate() {
            history = mix(history, token);
            let entry = Entry { history, salt: state.salt };
            let block = state.table[position / BlockSize::CPU.tokens()].0 as usize;
            let cell =
                &mut self.kv[block * BlockSize::CPU.tokens() + position % BlockSize::CPU.tokens()];
            if position < start {
                assert_eq!(*cell, Some(entry), "KV entry {position} of {}", run.slot);
            } else {
                *cell = Some(entry);
            }
        }
        state.computed = end;
        let samples = end == state.tokens.len();
        match run.logits {
            Logits::None => assert!(!samples, "the last known token needs logits"),
            Logits::Last => assert!(samples, "there are known tokens after the last row"),
            Logits::All => assert!(state.sampling.prompt_logprobs.is_some()),
        }
        let reported = (start + 1..(end + 1).min(state.prompt)).map(prompt_logprob);
        let prompt_logprobs =
            if run.logits == Logits::All { reported.collect() } else { Vec::new() };
        let sampled = samples.then(|| {
            let token = sample(history, &state.sampling, state.tokens.len() - state.prompt);
            state.unsaid = Some(token);
            Sampled { token, logprobs: None }
        });
        RunOutcome { slot: run.slot, sampled: Vec::from_iter(sampled), prompt_logprobs }
    }

    /// S-1: nobody else has a block that is written to.
    fn check_writes(&self, writer: Slot, start: usize, end: usize) {
        let table = &self.slots[&writer].table;
        for block in &table[start / BlockSize::CPU.tokens()..=(end - 1) / BlockSize::CPU.tokens()] {
            let holders = self.slots.iter().filter(|(_, state)| state.table.contains(block));
            assert_eq!(holders.count(), 1, "S-1: holders of {block}, which {writer} writes to");
        }
    }
}

/// What an undisturbed run of one request gives.
pub(crate) fn alone(request: &GenerateRequest, limits: &Limits) -> (Vec<TokenId>, FinishReason) {
    let mut history = request.prompt.iter().fold(0, |history, &token| mix(history, token));
    let sampling = &request.sampling;
    let mut output = Vec::new();
    loop {
        let token = sample(history, sampling, output.len());
        history = mix(history, token);
        output.push(token);
        if output.len() >= sampling.min_tokens as usize && sampling.stop_tokens.contains(&token) {
            return (output, FinishReason::Stop(token));
        }
        let full = request.prompt.len() + output.len() >= limits.context();
        if full || output.len() >= sampling.max_tokens as usize {
            return (output, FinishReason::Length);
        }
    }
}

/// The log-probability of the prompt token at a position says which position it is.
fn prompt_logprob(position: usize) -> TokenLogprobs {
    TokenLogprobs { token: position as TokenId, logprob: -1.0, top: Vec::new() }
}

fn sample(history: u64, sampling: &SamplingParams, generated: usize) -> TokenId {
    let masked = |token: TokenId| {
        generated < sampling.min_tokens as usize && sampling.stop_tokens.contains(&token)
    };
    let first = (history >> 32) % VOCAB;
    let mut tokens = (first..first + VOCAB).map(|token| (token % VOCAB) as TokenId);
    tokens.find(|&token| !masked(token)).expect("not every token is a stop token")
}

/// SplitMix64.
fn mix(history: u64, token: TokenId) -> u64 {
    let mut z = history.wrapping_add(u64::from(token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
