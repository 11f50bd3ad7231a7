//! A trace of conversations with shared prefixes, played on a router and real schedulers.
//!
//! [`PREFIXES`] clients each have one conversation of [`TURNS`] turns. All conversations begin with the
//! same [`HEAD`] tokens (a chat template does that), then each has a prefix of its own of 256 to 2,048
//! tokens. A turn sends all that was said and 32 to 256 new tokens, and is answered with 16 to 128. The
//! client then thinks for up to 30 steps. All of it is drawn from one seed.
//!
//! Every replica makes a step of at most [`BUDGET`] tokens at a time, in lockstep; its events reach the
//! router after each, its load after every fourth. The replicas together have blocks for half as much
//! again as all conversations have at their end, so a replica has no room for all of them.

use std::collections::HashSet;
use std::time::Duration;

use playhouse_kvcache::{BlockHash, HashChain};
use playhouse_router::{Applied, Ask, Load, Policy, Router};
use playhouse_scheduler::{HashedRequest, Limits, Scheduler, Terms};
use playhouse_types::{
    BlockSize, Epoch, GenerateRequest, Logits, PrefixEvent, ReplicaId, RequestId, RunOutcome,
    Sampled, SamplingParams, StepOutcome, StepPlan, TokenId,
};

pub(crate) const PREFIXES: usize = 20;
pub(crate) const TURNS: usize = 50;
const HEAD: usize = 24;
const BUDGET: usize = 128;

/// What a trace came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Tokens of all prompts.
    pub(crate) prompt_tokens: u64,
    /// Of those, tokens found in the cache of the replica that was picked.
    pub(crate) cached_tokens: u64,
    /// What one replica with blocks without end would have found.
    pub(crate) best_tokens: u64,
    /// Tokens that the busiest replica computed, over the mean of all.
    pub(crate) imbalance: f64,
    /// Steps until the last conversation ended.
    pub(crate) steps: u64,
}

struct Conversation {
    tokens: Vec<TokenId>,
    chain: HashChain,
    turns: usize,
    /// When the next turn comes; `None` while it waits for an answer.
    next: Option<u64>,
}

struct Replica {
    id: ReplicaId,
    scheduler: Scheduler,
    events: u64,
    accepted: u64,
}

struct Play {
    router: Router,
    replicas: Vec<Replica>,
    conversations: Vec<Conversation>,
    /// Names of all blocks that ever were in a cache.
    ever: HashSet<u64>,
    random: u64,
    outcome: Outcome,
}

pub(crate) fn play(policy: Policy, replicas: u32, seed: u64) -> Outcome {
    let mut play = Play::new(policy, replicas, seed);
    while play.conversations.iter().any(|c| c.next.is_none() || c.turns < TURNS) {
        play.step();
    }
    let computed = play.replicas.iter().map(|replica| {
        let stats = replica.scheduler.stats();
        (stats.prompt_tokens + stats.generated_tokens) as f64
    });
    let (most, sum) = computed.fold((0.0, 0.0), |(most, sum), n| (f64::max(most, n), sum + n));
    Outcome { imbalance: most / (sum / f64::from(replicas)), ..play.outcome }
}

// === impl Outcome ===

impl Outcome {
    /// Tokens found, over those that could have been.
    pub(crate) fn hits(&self) -> f64 {
        self.cached_tokens as f64 / self.best_tokens as f64
    }
}

// === impl Play ===

impl Play {
    fn new(policy: Policy, replicas: u32, seed: u64) -> Self {
        let mut play = Self {
            router: Router::new(policy, seed),
            replicas: Vec::new(),
            conversations: Vec::new(),
            ever: HashSet::new(),
            random: seed,
            outcome: Outcome::default(),
        };
        // Means of what is drawn: 1,152 tokens of prefix, 144 and 72 in each turn.
        let tokens_max = PREFIXES * (HEAD + 1152 + TURNS * (144 + 72));
        let kv_blocks = tokens_max / BlockSize::CPU.tokens() * 3 / 2 / replicas as usize;
        for id in (0..replicas).map(ReplicaId) {
            play.router.add(id);
            play.replicas.push(Replica::new(id, kv_blocks as u32));
        }
        for _ in 0..PREFIXES {
            let prefix = play.between(256, 2048);
            let tokens = (0..HEAD as TokenId).chain(play.words(prefix)).collect();
            let next = Some(play.between(0, 30) as u64);
            play.conversations.push(Conversation::new(tokens, next));
        }
        play
    }

    fn step(&mut self) {
        let now = self.outcome.steps;
        for at in 0..PREFIXES {
            let Conversation { next, turns, .. } = self.conversations[at];
            if turns < TURNS && next.is_some_and(|next| next <= now) {
                self.ask(at);
            }
        }
        for at in 0..self.replicas.len() {
            self.work(at);
            if now.is_multiple_of(4) {
                let Replica { id, accepted, ref scheduler, .. } = self.replicas[at];
                self.router.report(id, load(accepted, scheduler));
            }
        }
        self.outcome.steps += 1;
    }

    /// Sends the next turn of a conversation to the replica that the router picks.
    fn ask(&mut self, at: usize) {
        let words = self.between(32, 256);
        let words = self.words(words);
        let max_tokens = self.between(16, 128) as u32;
        let conversation = &mut self.conversations[at];
        conversation.say(&words);
        conversation.turns += 1;
        conversation.next = None;
        let prompt = &conversation.tokens;
        let hashes: Vec<u64> = conversation.chain.hashes().iter().map(BlockHash::short).collect();
        let usable = &hashes[..(prompt.len() - 1) / BlockSize::CPU.tokens()];
        let best = usable.iter().take_while(|name| self.ever.contains(name)).count();
        self.outcome.best_tokens += (best * BlockSize::CPU.tokens()) as u64;
        self.outcome.prompt_tokens += prompt.len() as u64;

        let ask = Ask {
            hashes: &hashes,
            block_size: BlockSize::CPU,
            tokens: prompt.len() as u32,
            session: None,
        };
        let pick = self.router.pick(&ask, |_| true).expect("there are replicas");
        let replica = &mut self.replicas[pick.replica.0 as usize];
        replica.accepted += 1;
        let request = GenerateRequest {
            id: RequestId(at as u64),
            prompt: prompt[..].into(),
            sampling: SamplingParams::greedy(max_tokens).into(),
            cache_salt: 0,
        };
        let hashed = HashedRequest::new(request, replica.scheduler.limits());
        let accepted = replica.scheduler.enqueue(hashed, Terms::default(), Duration::ZERO);
        accepted.expect("the context is long enough");
    }

    /// Lets a replica make a step, if it has anything to do.
    fn work(&mut self, at: usize) {
        let Replica { id, scheduler, events, .. } = &mut self.replicas[at];
        let Some(plan) = scheduler.plan_step(Duration::ZERO) else { return };
        let emissions = scheduler.apply(outcome(&plan), Duration::ZERO);
        for emission in emissions.expect("they are those of the plan") {
            let conversation = &mut self.conversations[emission.id.0 as usize];
            conversation.say(&emission.token.map_or(Vec::new(), |sampled| vec![sampled.token]));
            if emission.finish.is_some() {
                self.outcome.cached_tokens += u64::from(emission.cached_tokens);
                let think = below(&mut self.random, 31);
                conversation.next = Some(self.outcome.steps + 1 + think);
            }
        }
        scheduler.take_timings();
        for event in scheduler.take_prefix_events() {
            let applied = self.router.apply(*id, Epoch(1), *events, &event);
            assert_eq!(applied, Applied::Applied);
            *events += 1;
            if let PrefixEvent::Stored(names) = event {
                self.ever.extend(names);
            }
        }
    }

    fn words(&mut self, count: usize) -> Vec<TokenId> {
        (0..count).map(|_| self.between(1000, 150_000) as TokenId).collect()
    }

    /// Uniform in `least..=most`.
    fn between(&mut self, least: usize, most: usize) -> usize {
        least + below(&mut self.random, (most - least + 1) as u64) as usize
    }
}

// === impl Conversation ===

impl Conversation {
    fn new(tokens: Vec<TokenId>, next: Option<u64>) -> Self {
        let mut chain = HashChain::new(0, BlockSize::CPU);
        chain.extend(&tokens);
        Self { tokens, chain, turns: 0, next }
    }

    fn say(&mut self, words: &[TokenId]) {
        self.tokens.extend(words);
        self.chain.extend(words);
    }
}

// === impl Replica ===

impl Replica {
    fn new(id: ReplicaId, kv_blocks: u32) -> Self {
        let limits = Limits {
            max_num_seqs: 32,
            max_num_batched_tokens: BUDGET,
            prefill_time: Duration::MAX,
            max_model_len: 1 << 20,
            kv_blocks,
            block_size: BlockSize::CPU,
            micro_batches: 1,
            micro_batch_max: usize::MAX,
            lookahead: false,
            prefix_caching: true,
        };
        Self { id, scheduler: Scheduler::new(limits, Epoch(1)), events: 0, accepted: 0 }
    }
}

fn load(accepted: u64, scheduler: &Scheduler) -> Load {
    let stats = scheduler.stats();
    Load {
        accepted,
        queued_tokens: scheduler.tokens_left() as u64,
        running: stats.running as u32,
        waiting: stats.waiting as u32,
        kv_used_blocks: stats.kv.held as u32,
        kv_total_blocks: stats.kv.total as u32,
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

/// Uniform below `limit`; SplitMix64.
pub(crate) fn below(random: &mut u64, limit: u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % limit
}
