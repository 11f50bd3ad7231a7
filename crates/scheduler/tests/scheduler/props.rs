//! The guarantees of the scheduler under arbitrary calls, with an engine that checks the plans.
//!
//! The heart of it is S-4: whatever happens to a request (chunks, preemption, hits, restarts, the
//! end of its neighbours), its output equals that of the request computed alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Emitted, HashedRequest, Limits, Scheduler, Tenant, Terms, Timings};
use playhouse_types::{
    BlockSize, Emission, Epoch, FinishReason, GenerateRequest, PrefixEvent, RequestId, Sampled,
    SamplingParams, Slot, StepOutcome, StepPlan, TokenId, TokenLogprobs,
};
use proptest::prelude::*;

mod engine;

use engine::{Engine, Salts, alone};

#[derive(Clone, Debug)]
enum Call {
    Enqueue(Wish),
    Plan,
    Apply,
    /// The n-th unfinished request.
    Cancel(usize),
    /// Every request is given up and taken back, with steps in flight.
    Unseat,
    /// The engine dies; the outcome of its oldest step may still arrive.
    Die {
        late: bool,
    },
}

/// What a request is made of.
#[derive(Clone, Debug)]
struct Wish {
    /// Requests of a family have the same tokens as far as both reach.
    family: TokenId,
    prompt: usize,
    /// The prompt goes on from the prompt and the output so far of this request, if there is one:
    /// the next turn of a chat.
    follows: usize,
    max_tokens: u32,
    min_tokens: u32,
    stops: Vec<TokenId>,
    salt: u64,
    prompt_logprobs: bool,
    priority: i32,
    tenant: u32,
    /// Calls from now on, after which it expires.
    patience: Option<u32>,
}

/// What came of a request.
struct Asked {
    request: GenerateRequest,
    terms: Terms,
    emitted: Vec<TokenId>,
    /// Positions whose log-probabilities were emitted.
    reported: Vec<TokenId>,
    cached_tokens: Option<u32>,
    finish: Option<FinishReason>,
    had_seat: bool,
    /// Deaths that met it in flight, and whether it was alone in the last one.
    deaths: u32,
    died_alone: bool,
}

/// A plan in flight, as far as the test needs it.
struct InFlight {
    plan: StepPlan,
    requests: Vec<RequestId>,
}

struct World {
    limits: Limits,
    depth: usize,
    scheduler: Scheduler,
    epoch: u64,
    engine: Engine,
    asked: Vec<Asked>,
    salts: Salts,
    /// Who has a seat, after everything planned.
    seats: HashMap<Slot, RequestId>,
    in_flight: VecDeque<InFlight>,
    /// Kills the engine that computes this position of this request.
    poison: Option<(RequestId, u32)>,
    /// Of whoever has ended.
    timings: Vec<Timings>,
    /// The prefix cache, as events told it.
    heard: HashSet<u64>,
    /// Counts calls.
    now: Duration,
}

fn limits() -> impl Strategy<Value = (Limits, usize)> {
    let sizes = (1..6usize, 1..40usize, 20..160usize, 2..24u32, any::<bool>(), 1..4usize);
    let steps = (1..4usize, prop_oneof![Just(usize::MAX), 1..4usize], any::<bool>());
    (sizes, steps).prop_map(|(sizes, (micro_batches, micro_batch_max, lookahead))| {
        let (seqs, budget, len, kv_blocks, prefix_caching, depth) = sizes;
        let limits = Limits {
            max_num_seqs: seqs,
            max_num_batched_tokens: budget,
            prefill_time: Duration::MAX,
            max_model_len: len,
            kv_blocks,
            block_size: BlockSize::CPU,
            micro_batches,
            micro_batch_max,
            lookahead,
            prefix_caching,
        };
        (limits, depth)
    })
}

fn wishes() -> impl Strategy<Value = Wish> {
    let lengths = (1..70usize, 1..40u32, 0..8u32);
    let stops = prop::collection::vec(0..50u32, 0..3);
    let follows = prop_oneof![Just(usize::MAX), 0..20usize];
    let salt = (0..2u64, prop::bool::weighted(0.2));
    let patience = prop_oneof![8 => Just(None), 1 => (0..60u32).prop_map(Some)];
    let terms = (prop_oneof![4 => Just(0), 1 => -1..2i32], 0..3u32, patience);
    let parts = (0..3u32, lengths, follows, stops, salt, terms);
    parts.prop_map(|(family, (prompt, max_tokens, min_tokens), follows, stops, salt, terms)| {
        let ((salt, prompt_logprobs), (priority, tenant, patience)) = (salt, terms);
        Wish {
            family,
            prompt,
            follows,
            max_tokens,
            min_tokens: min_tokens.min(max_tokens),
            stops,
            salt,
            prompt_logprobs,
            priority,
            tenant,
            patience,
        }
    })
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        10 => wishes().prop_map(Call::Enqueue),
        40 => Just(Call::Plan),
        40 => Just(Call::Apply),
        4 => (0..8usize).prop_map(Call::Cancel),
        1 => Just(Call::Unseat),
        1 => any::<bool>().prop_map(|late| Call::Die { late }),
    ];
    prop::collection::vec(call, 1..300)
}

// === impl World ===

impl World {
    fn new(limits: Limits, depth: usize) -> Self {
        Self {
            limits,
            depth,
            scheduler: Scheduler::new(limits, Epoch(1)),
            epoch: 1,
            engine: Engine::new(limits),
            asked: Vec::new(),
            salts: Salts::new(),
            seats: HashMap::new(),
            in_flight: VecDeque::new(),
            poison: None,
            timings: Vec::new(),
            heard: HashSet::new(),
            now: Duration::ZERO,
        }
    }

    fn run(&mut self, call: Call) {
        self.now += Duration::from_millis(1);
        match call {
            Call::Enqueue(wish) => self.enqueue(&wish),
            Call::Plan => drop(self.plan()),
            Call::Apply => self.apply(),
            Call::Unseat => self.unseat(),
            Call::Cancel(nth) => self.cancel(nth),
            Call::Die { late } => self.die(late),
        }
        self.scheduler.check();
    }

    fn enqueue(&mut self, wish: &Wish) {
        let id = self.asked.len() as u64;
        let token = |at: usize| (at as TokenId * 7 + if at < 20 { 0 } else { wish.family }) % 50;
        let sampling = SamplingParams {
            seed: id,
            min_tokens: wish.min_tokens,
            stop_tokens: wish.stops.clone(),
            prompt_logprobs: wish.prompt_logprobs.then_some(0),
            ..SamplingParams::greedy(wish.max_tokens)
        };
        let turns =
            self.asked.get(wish.follows).map(|asked| (&asked.request.prompt, &asked.emitted));
        let turns = turns.into_iter().flat_map(|(prompt, emitted)| prompt.iter().chain(emitted));
        let prompt: Arc<[TokenId]> = turns.copied().chain((0..wish.prompt).map(token)).collect();
        let fits = prompt.len() < self.limits.context();
        let request = GenerateRequest {
            id: RequestId(id),
            prompt,
            sampling: Arc::new(sampling),
            cache_salt: wish.salt,
        };
        let terms = Terms {
            priority: wish.priority,
            tenant: Tenant(wish.tenant),
            deadline: wish.patience.map(|calls| self.now + Duration::from_millis(calls.into())),
        };
        let hashed = HashedRequest::new(request.clone(), &self.limits);
        let answer = self.scheduler.enqueue(hashed, terms, self.now);
        assert_eq!(answer.is_ok(), fits, "{answer:?}");
        if fits {
            self.salts.insert(id, wish.salt);
            self.asked.push(Asked::new(request, terms));
        }
    }

    fn plan(&mut self) -> bool {
        if self.in_flight.len() == self.depth {
            return false;
        }
        let preemptions = self.scheduler.stats().preemptions;
        let plan = self.scheduler.plan_step(self.now);
        for expired in self.scheduler.take_expired() {
            let Asked { terms, had_seat, .. } = &self.asked[expired.id.0 as usize];
            assert!(!had_seat && terms.deadline <= Some(self.now), "S-13: {}", expired.id);
            assert_eq!(expired.finish, Some(FinishReason::Expired));
            self.take(expired);
        }
        let Some(plan) = plan else {
            let stuck = self.in_flight.is_empty() && self.unfinished().next().is_some();
            assert!(!stuck, "S-2: nothing is planned: {:?}", self.scheduler.stats());
            return false;
        };
        let preempted = self.scheduler.stats().preemptions - preemptions;
        self.take_seats(&plan, preempted);
        let requests = plan.runs.iter().map(|run| self.seats[&run.slot]).collect();
        self.engine.receive(plan.clone());
        self.in_flight.push_back(InFlight { plan, requests });
        self.check_shares();
        true
    }

    /// S-3: seats are given in order, and taken away in the reverse order.
    fn take_seats(&mut self, plan: &StepPlan, preempted: u64) {
        let unseated: Vec<RequestId> = plan
            .released
            .iter()
            .map(|slot| self.seats.remove(slot).expect("it was taken"))
            .collect();
        let unfinished: Vec<RequestId> = self.unfinished().collect();
        let mut robbed: Vec<RequestId> =
            unseated.into_iter().filter(|id| unfinished.contains(id)).collect();
        assert!(preempted == 0 || plan.admitted.is_empty(), "who preempts does not admit");
        let mut overtaking = 0;
        for admitted in &plan.admitted {
            let id = RequestId(admitted.sampling.seed);
            let Asked { terms, had_seat, .. } = &mut self.asked[id.0 as usize];
            let late = !*had_seat && terms.deadline.is_some_and(|deadline| deadline <= self.now);
            assert!(!late, "S-13: {id} takes a seat after its deadline");
            *had_seat = true;
            let before = unfinished.iter().filter(|&&other| self.is_before(other, id));
            let mut standing = before.filter(|other| !self.seats.values().any(|id| id == *other));
            if let Some(&other) = standing.next() {
                let priority = |id: RequestId| self.asked[id.0 as usize].terms.priority;
                assert_eq!(priority(id), priority(other), "S-3: {id} overtakes {other}");
                let room = unfinished.len() <= self.limits.max_num_seqs;
                assert!(room, "S-15: {id} takes the seat of {other}");
                overtaking += admitted.tokens.len();
            }
            self.seats.insert(admitted.slot, id);
            robbed.retain(|&other| other != id);
        }
        let share = self.limits.max_num_batched_tokens / 4;
        assert!(overtaking <= share, "S-15: {overtaking} tokens overtake, more than {share}");
        assert!(self.seats.len() <= self.limits.max_num_seqs, "S-6");
        let requests = unfinished.len().min(self.limits.max_num_seqs);
        let share =
            requests.div_ceil(self.limits.micro_batches).clamp(1, self.limits.micro_batch_max);
        assert!(plan.runs.len() <= share, "S-10: {} of {requests} run", plan.runs.len());
        for id in robbed {
            let order = |id: &RequestId| (self.asked[id.0 as usize].terms.priority, *id);
            // Who was admitted since may be of a tenant that had less.
            let old = |slot: &Slot| plan.admitted.iter().all(|admitted| admitted.slot != *slot);
            let seated = self.seats.iter().filter(|(slot, _)| old(slot)).map(|(_, id)| id);
            let seated = seated.filter(|seated| unfinished.contains(seated));
            let last = seated.map(order).max();
            assert!(
                last.is_none_or(|last| last < order(&id)),
                "S-3: {id} lost its seat, {last:?} did not"
            );
        }
    }

    /// S-3: nobody takes a seat before these have one.
    fn is_before(&self, one: RequestId, other: RequestId) -> bool {
        let terms = |id: RequestId| self.asked[id.0 as usize].terms;
        let ((one, id), (other, than)) = ((terms(one), one), (terms(other), other));
        let earlier = one.priority == other.priority && one.tenant == other.tenant && id < than;
        one.priority < other.priority || earlier
    }

    /// S-7: with budget, blocks and one stage for everybody, everybody with a seat is in flight.
    fn check_shares(&self) {
        let kv = self.scheduler.stats().kv;
        let blocks = kv.total - kv.held >= self.limits.max_num_seqs;
        let budget = self.limits.max_num_batched_tokens >= self.limits.max_num_seqs;
        let splits = self.limits.micro_batches > 1 || self.limits.micro_batch_max < usize::MAX;
        if !(blocks && budget) || self.epoch > 1 || splits {
            return;
        }
        let moving: HashSet<RequestId> =
            self.in_flight.iter().flat_map(|step| step.requests.iter().copied()).collect();
        for id in self.seats.values() {
            let ended = self.asked[id.0 as usize].finish.is_some();
            assert!(ended || moving.contains(id), "S-7: {id} is left out");
        }
    }

    fn apply(&mut self) {
        let Some(step) = self.in_flight.front() else { return };
        let kills = |(at, id): (usize, &RequestId)| {
            let run = &step.plan.runs[at];
            let positions = run.start..run.start + run.tokens;
            let wanted = self.asked[id.0 as usize].finish.is_none();
            let poison = |(poison, at)| poison == *id && positions.contains(&at);
            wanted && self.poison.is_some_and(poison)
        };
        if step.requests.iter().enumerate().any(kills) {
            return self.die(false);
        }
        let first = step.requests.first().copied();
        self.in_flight.pop_front();
        let outcome = self.engine.execute(&self.salts);
        self.check_contract(&outcome, first);
        let emissions = self.scheduler.apply(outcome, self.now).expect("it is that of the plan");
        emissions.into_iter().for_each(|emission| self.take(emission));
        self.listen();
    }

    /// S-17: whatever else comes than the outcome is refused, and then the outcome is still taken.
    fn check_contract(&mut self, outcome: &StepOutcome, first: Option<RequestId>) {
        let logprobs = TokenLogprobs { token: 0, logprob: 0.0, top: Vec::new() };
        let breaks: [fn(&mut StepOutcome, TokenLogprobs); 6] = [
            |outcome, _| outcome.step.0 += 1,
            |outcome, _| drop(outcome.runs.pop()),
            |outcome, _| outcome.runs[0].slot.0 += 1,
            |outcome, _| {
                let sampled = &mut outcome.runs[0].sampled;
                if sampled.pop().is_none() {
                    sampled.push(Sampled { token: 1, logprobs: None });
                }
            },
            |outcome, _| {
                let sampled = &mut outcome.runs[0].sampled;
                sampled.extend([17, 18].map(|token| Sampled { token, logprobs: None }));
            },
            |outcome, logprobs| outcome.runs[0].prompt_logprobs.push(logprobs),
        ];
        // What an outcome says of a request that has ended is not read.
        let is_read = |id: RequestId| self.asked[id.0 as usize].finish.is_none();
        let all = match first {
            None => 1,
            Some(id) if is_read(id) => 6,
            Some(_) => 3,
        };
        for broken in &breaks[..all] {
            let mut other = outcome.clone();
            broken(&mut other, logprobs.clone());
            let refused = self.scheduler.apply(other, self.now);
            assert!(refused.is_err(), "S-17: {refused:?}");
        }
    }

    /// All requests leave while steps with them are in flight, and come back (S-12).
    fn unseat(&mut self) {
        self.scheduler.unseat_all();
        // Nobody is to blame for what becomes of those steps, and what they say is not read.
        self.in_flight.iter_mut().for_each(|step| step.requests.clear());
        for moved in self.scheduler.evacuate() {
            self.scheduler.adopt(moved);
        }
    }

    /// The schedule is lost with everything in it, and another goes on with what was emitted (S-12).
    fn lose(&mut self) {
        let mut other = Scheduler::new(self.limits, Epoch(self.epoch));
        for id in self.scheduler.evacuate().iter().map(|moved| moved.request().id) {
            let asked = &self.asked[id.0 as usize];
            let emitted = Emitted {
                tokens: asked.emitted.clone(),
                prompt_logprobs: asked.reported.len(),
                cached_tokens: asked.cached_tokens.map(|tokens| tokens as usize),
                arrived: self.now,
                losses: asked.deaths,
            };
            // Whether it had a seat is known by its tokens alone.
            let deadline = asked.terms.deadline.filter(|_| !asked.had_seat);
            let terms = Terms { deadline, ..asked.terms };
            let hashed = HashedRequest::new(asked.request.clone(), &self.limits);
            let resumed = other.resume(hashed, terms, emitted, self.now);
            resumed.expect("it has fitted before");
        }
        self.timings.extend(self.scheduler.take_timings());
        self.scheduler = other;
    }

    /// S-11: at every point, what events told is what a snapshot tells.
    fn listen(&mut self) {
        let events = self.scheduler.take_prefix_events();
        events.into_iter().for_each(|event| hear(&mut self.heard, event));
        let mut all = HashSet::new();
        let snapshot = self.scheduler.prefix_snapshot();
        snapshot.into_iter().for_each(|event| hear(&mut all, event));
        assert_eq!(self.heard, all, "S-11");
    }

    fn cancel(&mut self, nth: usize) {
        let Some(id) = self.unfinished().nth(nth) else { return };
        let emission = self.scheduler.cancel(id).expect("it is unfinished");
        assert_eq!(emission.finish, Some(FinishReason::Cancelled));
        self.take(emission);
        assert_eq!(self.scheduler.cancel(id), None, "S-5: cancelling twice");
    }

    fn die(&mut self, late: bool) {
        let met: HashSet<RequestId> =
            self.in_flight.iter().flat_map(|step| step.requests.iter().copied()).collect();
        for id in &met {
            let asked = &mut self.asked[id.0 as usize];
            asked.deaths += u32::from(asked.finish.is_none());
            asked.died_alone = self.in_flight.len() == 1 && met.len() == 1;
        }
        self.epoch += 1;
        let lost = self.in_flight.front().map(|step| step.plan.clone());
        self.in_flight.clear();
        self.seats.clear();
        let emissions = self.scheduler.restart(Epoch(self.epoch), true);
        if self.epoch.is_multiple_of(2) {
            // S-12: every other time they all move to another replica.
            let mut other = Scheduler::new(self.limits, Epoch(self.epoch));
            self.scheduler.evacuate().into_iter().for_each(|moved| other.adopt(moved));
            assert_eq!(self.scheduler.stats().waiting, 0, "S-12: all have left");
            self.timings.extend(self.scheduler.take_timings());
            self.scheduler = other;
        } else if self.epoch.is_multiple_of(3) {
            self.lose();
        }
        if let Some(StepPlan { epoch, step, .. }) = lost.filter(|_| late) {
            let outcome = StepOutcome { epoch, step, runs: Vec::new() };
            assert_eq!(self.scheduler.apply(outcome, self.now), Ok(Vec::new()));
        }
        self.engine = Engine::new(self.limits);
        emissions.into_iter().for_each(|emission| self.take(emission));
    }

    fn take(&mut self, emission: Emission) {
        let Emission { id, cached_tokens, prompt_logprobs, token, finish } = emission;
        let asked = &mut self.asked[id.0 as usize];
        assert_eq!(asked.finish, None, "{id} emits after its end");
        assert!((cached_tokens as usize) < asked.request.prompt.len());
        if token.is_some() {
            assert_eq!(*asked.cached_tokens.get_or_insert(cached_tokens), cached_tokens);
        }
        asked.emitted.extend(token.map(|sampled| sampled.token));
        asked.reported.extend(prompt_logprobs.iter().map(|entry| entry.token));
        asked.finish = finish;
    }

    fn unfinished(&self) -> impl Iterator<Item = RequestId> {
        let unfinished = self.asked.iter().filter(|asked| asked.finish.is_none());
        unfinished.map(|asked| asked.request.id)
    }

    /// Plans and applies until everything is finished and the engine has forgotten it.
    fn drain(&mut self) {
        let mut steps = 0;
        while self.plan() || !self.in_flight.is_empty() {
            steps += 1;
            assert!(steps < 50_000, "S-2: no end: {:?}", self.scheduler.stats());
            while self.plan() {}
            self.apply();
            self.scheduler.check();
        }
        assert_eq!(self.unfinished().next(), None, "S-2");
        assert!(self.seats.is_empty(), "the engine was told of every seat: {:?}", self.seats);
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.waiting_tokens), (0, 0, 0));
        assert_eq!(self.scheduler.tokens_left(), 0);
        assert_eq!(stats.kv.held, 0, "S-1");
        self.timings.extend(self.scheduler.take_timings());
        let timings = &self.timings;
        let timed: HashSet<RequestId> = timings.iter().map(|timings| timings.id).collect();
        assert_eq!((timings.len(), timed.len()), (self.asked.len(), self.asked.len()));
    }

    /// S-4, S-5 and S-9, once all is over.
    fn judge(&self) {
        for asked in &self.asked {
            let id = asked.request.id;
            let (tokens, finish) = alone(&asked.request, &self.limits);
            let finished = asked.finish.as_ref().expect("drained");
            match finished {
                FinishReason::Expired => assert!(asked.emitted.is_empty(), "S-13: {id}"),
                FinishReason::Cancelled | FinishReason::Failed(_) => {
                    assert!(tokens.starts_with(&asked.emitted), "S-4: {id} up to its early end");
                }
                _ => assert_eq!((&asked.emitted, finished), (&tokens, &finish), "S-4: {id}"),
            }
            if matches!(finished, FinishReason::Failed(_)) {
                assert!(asked.deaths >= 3 && asked.died_alone, "S-9: {id} fails for others");
            }
            let prompt = asked.request.prompt.len() as TokenId;
            let wanted = asked.request.sampling.prompt_logprobs.is_some();
            let positions: Vec<TokenId> = (1..if wanted { prompt } else { 1 }).collect();
            if asked.emitted.is_empty() {
                assert!(positions.starts_with(&asked.reported), "S-4: {id}: {:?}", asked.reported);
            } else {
                assert_eq!(asked.reported, positions, "S-4: prompt log-probabilities of {id}");
            }
        }
    }
}

// === impl Asked ===

impl Asked {
    fn new(request: GenerateRequest, terms: Terms) -> Self {
        Self {
            request,
            terms,
            emitted: Vec::new(),
            reported: Vec::new(),
            cached_tokens: None,
            finish: None,
            had_seat: false,
            deaths: 0,
            died_alone: false,
        }
    }
}

fn hear(names: &mut HashSet<u64>, event: PrefixEvent) {
    match event {
        PrefixEvent::Stored(stored) => names.extend(stored),
        PrefixEvent::Removed(removed) => names.retain(|name| !removed.contains(name)),
        PrefixEvent::Reset => names.clear(),
    }
}

proptest! {
    #[test]
    fn every_request_gets_what_it_would_get_alone((limits, depth) in limits(), calls in calls()) {
        let mut world = World::new(limits, depth);
        for call in calls {
            world.run(call);
        }
        world.drain();
        world.judge();
    }

    /// S-14: while several tenants wait, none has had more than another by more than a seat's worth for
    /// every seat, and one: what a request will cost is known only when it has ended.
    #[test]
    fn tenants_that_wait_share_alike(
        (limits, depth) in limits(),
        mut wishes in prop::collection::vec(wishes(), 12..60),
    ) {
        // One tenant after the other, so that the order of arrival would be the most unfair.
        wishes.sort_by_key(|wish| wish.tenant);
        // No preemption and no hits, so that what a request costs is its own.
        let limits = Limits { kv_blocks: 200, prefix_caching: false, ..limits };
        let mut world = World::new(limits, depth);
        for wish in &wishes {
            let wish = Wish { priority: 0, patience: None, follows: usize::MAX, ..wish.clone() };
            world.enqueue(&wish);
        }
        let cost = |asked: &Asked| asked.request.prompt.len() + 2 * asked.emitted.len();
        let dearest = world.asked.iter().map(|asked| {
            asked.request.prompt.len() + 2 * asked.request.sampling.max_tokens as usize
        });
        let bound = dearest.max().unwrap_or(0) * (limits.max_num_seqs + 1);
        loop {
            while world.plan() {}
            let waits = |tenant: &u32| {
                let of = |asked: &&Asked| asked.terms.tenant == Tenant(*tenant);
                world.asked.iter().filter(of).any(|asked| !asked.had_seat)
            };
            if (0..3).filter(waits).count() < 2 {
                break;
            }
            let had = (0..3).filter(waits).map(|tenant| {
                let of = |asked: &&Asked| asked.had_seat && asked.terms.tenant == Tenant(tenant);
                world.asked.iter().filter(of).map(cost).sum::<usize>()
            });
            let had: Vec<usize> = had.collect();
            let (least, most) = (had.iter().min(), had.iter().max());
            let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
            prop_assert!(most - least <= bound, "S-14: {had:?}, at most {bound} apart");
            world.apply();
        }
        world.drain();
        world.judge();
    }

    /// S-9: one request kills every engine that computes a certain position of it. It fails, after
    /// three deaths, and nobody else does. (No prefix cache: a hit could save it from the position.)
    #[test]
    fn a_poisonous_request_fails_alone(
        (limits, depth) in limits(),
        wishes in prop::collection::vec(wishes(), 1..12),
        poison in 0..12u64,
        position in 0..80u32,
        steps in 0..20usize,
    ) {
        let mut world = World::new(Limits { prefix_caching: false, ..limits }, depth);
        world.poison = Some((RequestId(poison), position));
        for (at, wish) in wishes.iter().enumerate() {
            world.enqueue(wish);
            for _ in 0..if at % 2 == 0 { steps } else { 0 } {
                world.plan();
                world.apply();
            }
        }
        world.drain();
        world.judge();
        let failed = |asked: &&Asked| matches!(asked.finish, Some(FinishReason::Failed(_)));
        let failed: Vec<u64> = world.asked.iter().filter(failed).map(|a| a.request.id.0).collect();
        match world.epoch {
            1 => prop_assert!(failed.is_empty(), "{failed:?}"),
            4 => prop_assert_eq!(failed, [poison]),
            epoch => prop_assert!(false, "{} deaths", epoch - 1),
        }
    }
}
