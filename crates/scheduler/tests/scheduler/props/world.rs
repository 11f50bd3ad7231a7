//! A scheduler under arbitrary calls, whose plans and emissions are checked as they come.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Emitted, HashedRequest, Limits, Scheduler, Tenant, Terms, Timings};
use playhouse_types::{
    Emission, Epoch, FinishReason, GenerateRequest, PrefixEvent, RequestId, Sampled,
    SamplingParams, Slot, StepOutcome, StepPlan, TokenId, TokenLogprobs,
};

use super::asked::Asked;
use super::calls::{Call, Wish};
use super::engine::{Engine, Salts};

/// A plan in flight, as far as the test needs it.
struct InFlight {
    plan: StepPlan,
    requests: Vec<RequestId>,
}

/// A scheduler, its engine, and what the requests of a test have got so far.
pub(crate) struct World {
    limits: Limits,
    depth: usize,
    scheduler: Scheduler,
    pub(crate) epoch: u64,
    engine: Engine,
    pub(crate) asked: Vec<Asked>,
    salts: Salts,
    /// The request in each slot, after everything planned.
    slots: HashMap<Slot, RequestId>,
    in_flight: VecDeque<InFlight>,
    /// Kills the engine that computes this position of this request.
    pub(crate) poison: Option<(RequestId, u32)>,
    /// Of whoever has ended.
    timings: Vec<Timings>,
    /// The prefix cache, as events told it.
    heard: HashSet<u64>,
    /// Counts calls.
    now: Duration,
}

// === impl World ===

impl World {
    pub(crate) fn new(limits: Limits, depth: usize) -> Self {
        Self {
            limits,
            depth,
            scheduler: Scheduler::new(limits, Epoch(1)),
            epoch: 1,
            engine: Engine::new(limits),
            asked: Vec::new(),
            salts: Salts::new(),
            slots: HashMap::new(),
            in_flight: VecDeque::new(),
            poison: None,
            timings: Vec::new(),
            heard: HashSet::new(),
            now: Duration::ZERO,
        }
    }

    pub(crate) fn run(&mut self, call: Call) {
        self.now += Duration::from_millis(1);
        match call {
            Call::Enqueue(wish) => self.enqueue(&wish),
            Call::Plan => drop(self.plan()),
            Call::Apply => self.apply(),
            Call::VacateAll => self.vacate_all(),
            Call::Cancel(nth) => self.cancel(nth),
            Call::Die { late } => self.die(late),
        }
        self.scheduler.check();
    }

    pub(crate) fn enqueue(&mut self, wish: &Wish) {
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

    pub(crate) fn plan(&mut self) -> bool {
        if self.in_flight.len() == self.depth {
            return false;
        }
        let preemptions = self.scheduler.stats().preemptions;
        let plan = self.scheduler.plan_step(self.now);
        for expired in self.scheduler.take_expired() {
            let Asked { terms, had_slot, .. } = &self.asked[expired.id.0 as usize];
            assert!(!had_slot && terms.deadline <= Some(self.now), "S-13: {}", expired.id);
            assert_eq!(expired.finish, Some(FinishReason::Expired));
            self.take(expired);
        }
        let Some(plan) = plan else {
            let stuck = self.in_flight.is_empty() && self.unfinished().next().is_some();
            assert!(!stuck, "S-2: nothing is planned: {:?}", self.scheduler.stats());
            return false;
        };
        let preempted = self.scheduler.stats().preemptions - preemptions;
        self.follow_slots(&plan, preempted);
        let requests = plan.runs.iter().map(|run| self.slots[&run.slot]).collect();
        self.engine.receive(plan.clone());
        self.in_flight.push_back(InFlight { plan, requests });
        self.check_shares();
        true
    }

    /// S-3: slots are given in order, and taken away in the reverse order.
    fn follow_slots(&mut self, plan: &StepPlan, preempted: u64) {
        let released: Vec<RequestId> = plan
            .released
            .iter()
            .map(|slot| self.slots.remove(slot).expect("it was taken"))
            .collect();
        let unfinished: Vec<RequestId> = self.unfinished().collect();
        let mut robbed: Vec<RequestId> =
            released.into_iter().filter(|id| unfinished.contains(id)).collect();
        assert!(preempted == 0 || plan.admitted.is_empty(), "who preempts does not admit");
        let mut overtaking = 0;
        for admitted in &plan.admitted {
            let id = RequestId(admitted.sampling.seed);
            let Asked { terms, had_slot, .. } = &mut self.asked[id.0 as usize];
            let late = !*had_slot && terms.deadline.is_some_and(|deadline| deadline <= self.now);
            assert!(!late, "S-13: {id} takes a slot after its deadline");
            *had_slot = true;
            let before = unfinished.iter().filter(|&&other| self.is_before(other, id));
            let mut standing = before.filter(|other| !self.slots.values().any(|id| id == *other));
            if let Some(&other) = standing.next() {
                let priority = |id: RequestId| self.asked[id.0 as usize].terms.priority;
                assert_eq!(priority(id), priority(other), "S-3: {id} overtakes {other}");
                let room = unfinished.len() <= self.limits.max_num_seqs;
                assert!(room, "S-15: {id} takes the slot of {other}");
                overtaking += admitted.tokens.len();
            }
            self.slots.insert(admitted.slot, id);
            robbed.retain(|&other| other != id);
        }
        let share = self.limits.max_num_batched_tokens / 4;
        assert!(overtaking <= share, "S-15: {overtaking} tokens overtake, more than {share}");
        assert!(self.slots.len() <= self.limits.max_num_seqs, "S-6");
        let requests = unfinished.len().min(self.limits.max_num_seqs);
        let share =
            requests.div_ceil(self.limits.micro_batches).clamp(1, self.limits.micro_batch_max);
        assert!(plan.runs.len() <= share, "S-10: {} of {requests} run", plan.runs.len());
        for id in robbed {
            let order = |id: &RequestId| (self.asked[id.0 as usize].terms.priority, *id);
            // Who was admitted since may be of a tenant that had less.
            let old = |slot: &Slot| plan.admitted.iter().all(|admitted| admitted.slot != *slot);
            let running = self.slots.iter().filter(|(slot, _)| old(slot)).map(|(_, id)| id);
            let running = running.filter(|running| unfinished.contains(running));
            let last = running.map(order).max();
            assert!(
                last.is_none_or(|last| last < order(&id)),
                "S-3: {id} lost its slot, {last:?} did not"
            );
        }
    }

    /// S-3: nobody takes a slot before these have one.
    fn is_before(&self, one: RequestId, other: RequestId) -> bool {
        let terms = |id: RequestId| self.asked[id.0 as usize].terms;
        let ((one, id), (other, than)) = ((terms(one), one), (terms(other), other));
        let earlier = one.priority == other.priority && one.tenant == other.tenant && id < than;
        one.priority < other.priority || earlier
    }

    /// S-7: with budget, blocks and one stage for everybody, everybody with a slot is in flight.
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
        for id in self.slots.values() {
            let ended = self.asked[id.0 as usize].finish.is_some();
            assert!(ended || moving.contains(id), "S-7: {id} is left out");
        }
    }

    pub(crate) fn apply(&mut self) {
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
    fn vacate_all(&mut self) {
        self.scheduler.vacate_all();
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
            // Whether it had a slot is known by its tokens alone.
            let deadline = asked.terms.deadline.filter(|_| !asked.had_slot);
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
        self.slots.clear();
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
    pub(crate) fn drain(&mut self) {
        let mut steps = 0;
        while self.plan() || !self.in_flight.is_empty() {
            steps += 1;
            assert!(steps < 50_000, "S-2: no end: {:?}", self.scheduler.stats());
            while self.plan() {}
            self.apply();
            self.scheduler.check();
        }
        assert_eq!(self.unfinished().next(), None, "S-2");
        assert!(self.slots.is_empty(), "the engine was told of every slot: {:?}", self.slots);
        let stats = self.scheduler.stats();
        assert_eq!((stats.running, stats.waiting, stats.waiting_tokens), (0, 0, 0));
        assert_eq!(self.scheduler.tokens_left(), 0);
        assert_eq!(stats.kv.held, 0, "S-1");
        self.timings.extend(self.scheduler.take_timings());
        let timings = &self.timings;
        let timed: HashSet<RequestId> = timings.iter().map(|timings| timings.id).collect();
        assert_eq!((timings.len(), timed.len()), (self.asked.len(), self.asked.len()));
    }

    /// Judges what came of each request.
    pub(crate) fn judge(&self) {
        self.asked.iter().for_each(|asked| asked.judge(&self.limits));
    }
}

fn hear(names: &mut HashSet<u64>, event: PrefixEvent) {
    match event {
        PrefixEvent::Stored(stored) => names.extend(stored),
        PrefixEvent::Removed(removed) => names.retain(|name| !removed.contains(name)),
        PrefixEvent::Reset => names.clear(),
    }
}
