//! Policy as text: every [transcript](crate::transcript) of `tests/scenarios` is played against a scheduler.
//! After every command the scheduler's books are checked. `REWRITE=1 cargo test -p playhouse-scheduler --test
//! scheduler scenarios` accepts what is printed.
//!
//! ```text
//! limits seqs=4 budget=64 len=256 blocks=16 cache=on lookahead=off     a new scheduler; these are the defaults
//!        prefill=10                                          prompts may add 10 ms to a step
//! enqueue a prompt=1..20 max=4 min=0 stop=7,8 salt=0 logprobs     request a; its prompt is 1 to 20
//!           priority=-1 tenant=2 within=5                        and its terms; it has 5 ms
//! plan                 the next plan: `a 0..8 +0 +1 -> sample` feeds positions 0 to 7 and adds
//!                      blocks 0 and 1; nothing, `sample` or `all` for the logits; `own` when the
//!                      engine has to take the token it sampled itself
//! apply a=5            the outcome of the oldest plan; unnamed tokens are 1000 + their position
//! step a=5             plan, then apply
//! drive 7              seven steps, or as many as there are; prints who finished
//! cancel a             restart              late (an outcome of before the restart arrives)
//! resize 8             the KV cache has 8 blocks from now on
//! wait 5               milliseconds pass
//! stats                timings
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{HashedRequest, Limits, Scheduler, Tenant, Terms};
use playhouse_types::{
    Admitted, Appended, BlockSize, Emission, Epoch, FinishReason, GenerateRequest, Logits,
    RequestId, Run, RunOutcome, Sampled, SamplingParams, Slot, StepOutcome, StepPlan, TokenId,
    TokenLogprobs,
};

use crate::transcript::{Player, play_folder};

#[test]
fn scenarios_play_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    play_folder::<Replica>(&folder, 15);
}

/// The words of a command after its name: `a`, `max=4`, `logprobs`.
struct Words<'a>(Vec<(&'a str, &'a str)>);

/// A scheduler, an engine which has everything in mind that it was told, and a clock.
struct Replica {
    scheduler: Scheduler,
    epoch: u64,
    now: Duration,
    sampling: BTreeMap<RequestId, Arc<SamplingParams>>,
    /// The request in each slot and the length of its prompt, as the plans told.
    slots: HashMap<Slot, (RequestId, u32)>,
    plans: VecDeque<StepPlan>,
    /// Plans whose outcomes did not come before a restart.
    lost: VecDeque<StepPlan>,
    /// Tokens emitted by each request.
    emitted: BTreeMap<RequestId, Vec<TokenId>>,
    printed: String,
}

// === impl Words ===

impl<'a> Words<'a> {
    fn parse(text: &'a str) -> Self {
        let words = text.split_whitespace();
        Self(words.map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|word| word.0 == name).map(|word| word.1)
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.get(name).map_or(default, number)
    }

    fn first(&self) -> &'a str {
        self.0.first().expect("a word after the command").0
    }

    /// Numbers and ranges (`1..3` is 1, 2, 3), separated by commas.
    fn tokens(&self, name: &str) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        for part in self.get(name).into_iter().flat_map(|list| list.split(',')) {
            let (from, to) = part.split_once("..").unwrap_or((part, part));
            let token = |text: &str| text.parse::<TokenId>().expect("a token");
            tokens.extend(token(from)..=token(to));
        }
        tokens
    }
}

// === impl Replica ===

impl Replica {
    fn new(words: &Words<'_>) -> Self {
        let limits = Limits {
            max_num_seqs: words.number("seqs", 4) as usize,
            max_num_batched_tokens: words.number("budget", 64) as usize,
            prefill_time: words.get("prefill").map_or(Duration::MAX, |ms| {
                Duration::from_millis(ms.parse().expect("milliseconds"))
            }),
            max_model_len: words.number("len", 256) as usize,
            kv_blocks: words.number("blocks", 16) as u32,
            block_size: BlockSize::CPU,
            micro_batches: words.number("micro-batches", 1) as usize,
            micro_batch_max: usize::MAX,
            lookahead: words.get("lookahead") == Some("on"),
            prefix_caching: words.get("cache") != Some("off"),
        };
        Self {
            scheduler: Scheduler::new(limits, Epoch(1)),
            epoch: 1,
            now: Duration::ZERO,
            sampling: BTreeMap::new(),
            slots: HashMap::new(),
            plans: VecDeque::new(),
            lost: VecDeque::new(),
            emitted: BTreeMap::new(),
            printed: String::new(),
        }
    }

    fn enqueue(&mut self, words: &Words<'_>) {
        let id = id(words.first());
        let sampling = Arc::new(SamplingParams {
            min_tokens: words.number("min", 0) as u32,
            stop_tokens: words.tokens("stop"),
            prompt_logprobs: words.get("logprobs").map(|_| 0),
            ..SamplingParams::greedy(words.number("max", 4) as u32)
        });
        self.sampling.insert(id, Arc::clone(&sampling));
        let prompt = words.tokens("prompt").into();
        let cache_salt = words.number("salt", 0);
        let request = GenerateRequest { id, prompt, sampling, cache_salt };
        let terms = Terms {
            priority: words.get("priority").map_or(0, |text| text.parse().expect("a number")),
            tenant: Tenant(words.number("tenant", 0) as u32),
            deadline: words.get("within").map(|ms| self.now + Duration::from_millis(number(ms))),
        };
        let hashed = HashedRequest::new(request, self.scheduler.limits());
        if let Err(error) = self.scheduler.enqueue(hashed, terms, self.now) {
            let _ = writeln!(self.printed, "refused: {error}");
        }
    }

    fn plan(&mut self) -> bool {
        let plan = self.scheduler.plan_step(self.now);
        let expired = self.scheduler.take_expired();
        if !expired.is_empty() {
            self.print_emissions(&expired);
        }
        let Some(plan) = plan else {
            self.printed += "no plan\n";
            return false;
        };
        self.follow_slots(&plan);
        let _ = write!(self.printed, "{}", plan.step);
        for slot in &plan.released {
            let _ = write!(self.printed, ", release {}", slot.0);
        }
        self.printed.push('\n');
        for admitted in &plan.admitted {
            let Admitted { slot, tokens, blocks, .. } = admitted;
            let name = name(self.slots[slot].0);
            let _ = write!(self.printed, "  admit {name} to {}: {} tokens", slot.0, tokens.len());
            for (at, block) in blocks.iter().enumerate() {
                let cached = if at == 0 { ", cached in" } else { "" };
                let _ = write!(self.printed, "{cached} {}", block.0);
            }
            self.printed.push('\n');
        }
        for Run { slot, start, tokens, appended, new_blocks, logits } in &plan.runs {
            let _ = write!(self.printed, "  {} {start}..{}", self.name_of(*slot), start + tokens);
            self.printed += if *appended == Appended::OwnSample { " own" } else { "" };
            new_blocks.iter().for_each(|block| self.printed += &format!(" +{}", block.0));
            self.printed += match logits {
                Logits::None => "\n",
                Logits::Last => " -> sample\n",
                Logits::All => " -> all\n",
            };
        }
        self.plans.push_back(plan);
        true
    }

    fn follow_slots(&mut self, plan: &StepPlan) {
        for slot in &plan.released {
            self.slots.remove(slot).expect("a released slot was taken");
        }
        for admitted in &plan.admitted {
            let mut requests = self.sampling.iter();
            let request = requests.find(|request| Arc::ptr_eq(request.1, &admitted.sampling));
            let request = (*request.expect("its sampling names it").0, admitted.prompt_tokens);
            assert!(self.slots.insert(admitted.slot, request).is_none(), "the slot was empty");
        }
    }

    fn apply(&mut self, words: &Words<'_>) {
        let plan = self.plans.pop_front().expect("a plan is in flight");
        let outcome = self.outcome(&plan, words);
        let emissions = self.scheduler.apply(outcome, self.now).expect("the plan's");
        self.print_emissions(&emissions);
    }

    /// What the engine computes: the tokens named, others 1000 + their position; the
    /// log-probability of a prompt token is its position below zero.
    fn outcome(&self, plan: &StepPlan, words: &Words<'_>) -> StepOutcome {
        let outcome = |(at, run): (usize, &Run)| {
            let end = run.start + run.tokens;
            let name = self.slots.get(&run.slot).map_or(String::new(), |request| name(request.0));
            let token = words.number(&name, 1000 + u64::from(end)) as TokenId;
            let prompt = self.slots.get(&run.slot).map_or(0, |request| request.1);
            let all = run.logits == Logits::All;
            let logprob = |position| TokenLogprobs {
                token: 0,
                logprob: -f64::from(position) as f32,
                top: Vec::new(),
            };
            let reported = if all { run.start + 1..(end + 1).min(prompt) } else { 0..0 };
            RunOutcome {
                slot: run.slot,
                sampled: Vec::from_iter(
                    self.samples(plan, at).then_some(Sampled { token, logprobs: None }),
                ),
                prompt_logprobs: reported.map(logprob).collect(),
            }
        };
        let runs = plan.runs.iter().enumerate().map(outcome).collect();
        StepOutcome { epoch: plan.epoch, step: plan.step, runs }
    }

    /// Scenarios report prompt log-probabilities only for runs of a first computation, whose last
    /// known token is that of the prompt, or for chunks which end inside of the prompt.
    fn samples(&self, plan: &StepPlan, at: usize) -> bool {
        let run = &plan.runs[at];
        let known = || {
            let (id, prompt) = self.slots[&run.slot];
            prompt as usize + self.emitted.get(&id).map_or(0, Vec::len)
        };
        match run.logits {
            Logits::None => false,
            Logits::Last => true,
            Logits::All => (run.start + run.tokens) as usize == known(),
        }
    }

    fn drive(&mut self, steps_max: u64) {
        let before = std::mem::take(&mut self.printed);
        let mut finished = String::new();
        let mut steps = 0;
        while steps < steps_max && self.plan() {
            steps += 1;
            assert!(steps < 10_000, "no end in sight: {:?}", self.scheduler.stats());
            self.printed.clear();
            self.apply(&Words::parse(""));
            let ends = self.printed.lines().filter(|line| line.contains("finished"));
            for end in ends {
                let request = id(end.split(':').next().expect("a line begins with a name"));
                let tokens = abridged(&self.emitted[&request]);
                let reason = end.split("finished").last().expect("it is a last emission");
                let _ = writeln!(finished, "{}: finished{reason} after {tokens}", name(request));
            }
        }
        self.printed = format!("{before}{finished}{steps} steps\n");
    }

    fn restart(&mut self) {
        self.epoch += 1;
        self.lost.extend(std::mem::take(&mut self.plans));
        let emissions = self.scheduler.restart(Epoch(self.epoch), true);
        self.slots.clear();
        self.print_emissions(&emissions);
    }

    fn stats(&mut self) {
        let stats = self.scheduler.stats();
        let kv = stats.kv;
        let _ = writeln!(
            self.printed,
            "running {} waiting {} ({} tokens) in_flight {}\n\
             blocks {} held {} cached {}, tokens queried {} hit {}\n\
             preemptions {} steps {} prompt_tokens {} generated_tokens {}",
            stats.running,
            stats.waiting,
            stats.waiting_tokens,
            stats.in_flight,
            kv.total,
            kv.held,
            kv.cached,
            kv.queried_tokens,
            kv.hit_tokens,
            stats.preemptions,
            stats.steps,
            stats.prompt_tokens,
            stats.generated_tokens
        );
    }

    fn timings(&mut self) {
        for t in self.scheduler.take_timings() {
            let _ = writeln!(
                self.printed,
                "{}: queue {:?} prefill {:?} decode {:?}, prompt {} cached {} generated {} \
                 preemptions {}",
                name(t.id),
                t.queue,
                t.prefill,
                t.decode,
                t.prompt_tokens,
                t.cached_tokens,
                t.generated_tokens,
                t.preemptions
            );
        }
    }

    fn print_emissions(&mut self, emissions: &[Emission]) {
        if emissions.is_empty() {
            self.printed += "no emission\n";
        }
        for Emission { id, cached_tokens, prompt_logprobs, token, finish } in emissions {
            let _ = write!(self.printed, "{}:", name(*id));
            if let (Some(first), Some(last)) = (prompt_logprobs.first(), prompt_logprobs.last()) {
                let (first, last) = (-first.logprob, -last.logprob);
                let _ = write!(self.printed, " logprobs of {first}..={last}");
            }
            if let Some(sampled) = token {
                let _ = write!(self.printed, " {}", sampled.token);
                self.emitted.entry(*id).or_default().push(sampled.token);
            }
            if *cached_tokens > 0 {
                let _ = write!(self.printed, " ({cached_tokens} cached)");
            }
            match finish {
                None => {}
                Some(FinishReason::Stop(token)) => {
                    let _ = write!(self.printed, " finished by stop token {token}");
                }
                Some(FinishReason::Length) => self.printed += " finished by length",
                Some(FinishReason::Cancelled) => self.printed += " finished by cancel",
                Some(FinishReason::Failed(why)) => {
                    let _ = write!(self.printed, " finished, failed: {why}");
                }
                Some(FinishReason::Expired) => self.printed += " expired",
                Some(FinishReason::Unserved(why)) => panic!("a scheduler serves: {why}"),
                Some(FinishReason::Draining) => panic!("a scheduler does not drain"),
            }
            self.printed.push('\n');
        }
    }

    fn name_of(&self, slot: Slot) -> String {
        name(self.slots[&slot].0)
    }
}

impl Default for Replica {
    fn default() -> Self {
        Self::new(&Words::parse(""))
    }
}

impl Player for Replica {
    fn run(&mut self, line: &str) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words = Words::parse(rest);
        match command {
            "limits" => *self = Self::new(&words),
            "enqueue" => self.enqueue(&words),
            "plan" => drop(self.plan()),
            "apply" => self.apply(&words),
            "step" => {
                if self.plan() {
                    self.apply(&words);
                }
            }
            "drive" => self.drive(words.0.first().map_or(u64::MAX, |word| number(word.0))),
            "cancel" => {
                let emission = self.scheduler.cancel(id(words.first()));
                self.print_emissions(emission.as_slice());
            }
            "restart" => self.restart(),
            "resize" => {
                self.scheduler.resize(u32::try_from(number(words.first())).expect("few blocks"));
            }
            "late" => {
                let plan = self.lost.pop_front().expect("a step was in flight at the restart");
                let outcome = self.outcome(&plan, &words);
                let emissions = self.scheduler.apply(outcome, self.now).expect("the plan's");
                self.print_emissions(&emissions);
            }
            "wait" => self.now += Duration::from_millis(number(words.first())),
            "stats" => self.stats(),
            "timings" => self.timings(),
            _ => panic!("no such command: {line}"),
        }
        self.scheduler.check();
    }

    fn printed(&mut self) -> &mut String {
        &mut self.printed
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// `1 to 9` for tokens that follow one another, else all of them.
fn abridged(tokens: &[TokenId]) -> String {
    match tokens {
        [first, .., last] if tokens.windows(2).all(|pair| pair[1] == pair[0] + 1) => {
            format!("{first} to {last}")
        }
        _ => format!("{tokens:?}"),
    }
}

/// Requests are called a, b, c.
fn id(name: &str) -> RequestId {
    RequestId(u64::from(name.bytes().next().expect("a name")))
}

fn name(id: RequestId) -> String {
    char::from(u8::try_from(id.0).expect("a letter")).to_string()
}
