//! Replica: one copy of the model. Owns the schedule and the epoch; knows its ranks only by their
//! step ports.
//!
//! - **R-1** what a rank reports is input: a report that breaks the contract of plans and outcomes restarts
//!   the ranks, and no report panics the actor (**A15**).
//! - **R-2** an actor that panics all the same says so in its status and gives its requests up to others
//!   before it is gone (**C-1**); its supervisor starts another (**A16**).
//! - **R-3** the ranks of an epoch start when those of the epochs before have ended. Ranks that are threads
//!   cannot be ended from outside: they are waited for for [`OLD_RANKS_MAX`], and not at all when they
//!   hang. `Drained` is said when all of them have ended, however long that takes (**A14**).

mod leaving;
mod outlying;
mod recovery;
mod sinks;

use std::sync::Arc;
use std::time::Duration;

use playhouse_layout::{RankId, RankMap};
use playhouse_scheduler::{Limits, Scheduler};
use playhouse_telemetry::{ReplicaMetrics, TraceSpan};
use playhouse_types::{Emission, Epoch, FinishReason, ReplicaId, StepId, StepOutcome, StepPlan};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::timeout;
use tracing::{info, warn};

pub(crate) use self::leaving::Revival;

use self::leaving::Duty;
use self::recovery::Next;
use self::sinks::Sinks;
use crate::bubble::Bubble;
use crate::clock::Clock;
use crate::departures::Departures;
use crate::live_ranks::LiveRanks;
use crate::outlier::Slowness;
use crate::pending::Pending;
use crate::pipeline::Pipeline;
use crate::rank::{Loss, LossCause, RankEvent, RankHandle, RankStarter};
use crate::replicas::Replicas;
use crate::report::{Board, Report};
use crate::restart::RestartBudget;
use crate::routing::LoadReporter;
use crate::shard::PortSlot;
use crate::stage::{Stage, StageArgs, StageMsg};
use crate::status::{ReplicaState, ShardState};
use crate::step_trace::{self, PACE};
use crate::timer::{Timer, TimerId, Timers};
use crate::watchdog::{StepDeadline, TICK, Watchdog};

/// How long ranks may take to end when their replica is stopped for good.
const RANKS_END_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Replica;

pub(crate) struct ReplicaArgs {
    pub(crate) id: ReplicaId,
    /// Its first; higher than that of whoever had this id before.
    pub(crate) epoch: Epoch,
    pub(crate) limits: Limits,
    pub(crate) map: Arc<RankMap>,
    pub(crate) concurrent_batches: usize,
    pub(crate) step_deadline: StepDeadline,
    /// Without one it rests, as after a drain.
    pub(crate) starter: Option<RankStarter>,
    pub(crate) ranks: Arc<LiveRanks>,
    pub(crate) departures: Arc<Departures>,
    /// How long requests may wait for it.
    pub(crate) patience: Duration,
    pub(crate) metrics: ReplicaMetrics,
    pub(crate) board: Board,
    pub(crate) load_reporter: LoadReporter,
    /// Where requests go that cannot stay.
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) clock: Clock,
}

pub(crate) enum ReplicaMsg {
    /// Take a request in.
    Take(Pending),
    /// Some callers have left.
    CallersLeft,
    /// A shard has started its rank.
    Started { epoch: Epoch, rank: RankId, port: PortSlot, handle: Arc<dyn RankHandle> },
    /// A rank reports.
    Reported { epoch: Epoch, rank: RankId, event: RankEvent },
    /// It is known why the ranks of the last epoch were lost: see to the requests.
    Recover(TimerId),
    /// Start this epoch.
    Restart(TimerId),
    /// Take no more requests, and give up the ranks when those there are have ended, or at the
    /// deadline.
    Drain { deadline: Duration },
    /// The deadline of a drain has passed.
    Overdue(TimerId),
    /// No rank is left.
    Vacated(TimerId),
    /// Serve again, after a drain or a failure.
    Revive(Revival),
    /// Look after the steps under way.
    Watch,
    /// It is tried again after it was an outlier.
    Readmit(TimerId),
}

pub(crate) struct State {
    id: ReplicaId,
    map: Arc<RankMap>,
    concurrent_batches: usize,
    /// While it has ranks or shall have some.
    starter: Option<RankStarter>,
    ranks: Arc<LiveRanks>,
    departures: Arc<Departures>,
    duty: Duty,
    /// To serve again as soon as its ranks have ended.
    revival: Option<Revival>,
    scheduler: Scheduler,
    sinks: Sinks,
    epoch: Epoch,
    stages: Vec<ActorRef<StageMsg>>,
    pipeline: Pipeline,
    bubble: Bubble,
    /// When the last step was traced.
    traced: Duration,
    watchdog: Watchdog,
    /// A [`ReplicaMsg::Watch`] is on its way.
    watched: bool,
    restarts: RestartBudget,
    patience: Duration,
    timers: Timers,
    /// Until it is known why the last epoch was lost.
    verdict: Option<Timer>,
    /// Until the next epoch starts.
    restart: Option<Timer>,
    /// Until the end of the drain under way.
    overdue: Option<Timer>,
    /// Until no rank is left.
    vacated: Option<Timer>,
    /// What follows the verdict.
    next: Next,
    /// Steps computed when a request was found guilty last.
    steps_at_conviction: u64,
    slowness: Slowness,
    /// Until it is tried again after it was an outlier.
    readmission: Option<Timer>,
    /// What ranks were lost of last.
    cause: LossCause,
    /// The latest epoch that may have died of what it was computing.
    died_of_step: Option<Epoch>,
    replicas: Arc<Replicas>,
    report: Report,
    clock: Clock,
    /// It has said how it ended.
    over: bool,
}

// === impl Replica ===

impl Actor for Replica {
    type Msg = ReplicaMsg;
    type State = State;
    type Arguments = ReplicaArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ReplicaMsg>,
        args: ReplicaArgs,
    ) -> Result<State, ActorProcessingErr> {
        let ReplicaArgs { id, epoch, limits, map, concurrent_batches, metrics, .. } = args;
        let pipeline = Pipeline::new(Arc::clone(&map), concurrent_batches);
        let mut state = State {
            id,
            concurrent_batches,
            duty: if args.starter.is_some() { Duty::Serve } else { Duty::Rest },
            starter: args.starter,
            ranks: args.ranks,
            departures: args.departures,
            revival: None,
            scheduler: Scheduler::new(limits, epoch),
            sinks: Sinks::default(),
            epoch,
            stages: Vec::new(),
            pipeline,
            bubble: Bubble::new(map.stages().len()),
            map,
            traced: Duration::ZERO,
            watchdog: Watchdog::new(args.step_deadline),
            watched: false,
            restarts: RestartBudget::new(id.0.into(), args.patience),
            patience: args.patience,
            timers: Timers::default(),
            verdict: None,
            restart: None,
            overdue: None,
            vacated: None,
            next: Next::Nothing,
            steps_at_conviction: 0,
            slowness: Slowness::default(),
            readmission: None,
            cause: LossCause::Outside,
            died_of_step: None,
            report: Report::new(metrics, args.board, args.load_reporter, &limits),
            replicas: args.replicas,
            clock: args.clock,
            over: false,
        };
        match state.duty {
            Duty::Rest => state.report.state(ReplicaState::Drained),
            _ => state.start_stages(&me).await?,
        }
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<ReplicaMsg>,
        message: ReplicaMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ReplicaMsg::Take(pending) => state.take(pending),
            ReplicaMsg::CallersLeft => state.cancel_abandoned(),
            ReplicaMsg::Started { epoch, rank, port, handle } if epoch == state.epoch => {
                if let Some(port) = port.take() {
                    state.pipeline.connect(rank, port, handle);
                    state.announce();
                }
            }
            ReplicaMsg::Reported { epoch, event: RankEvent::Lost(loss), .. }
                if loss.cause.is_of_step() =>
            {
                state.died_of_step = state.died_of_step.max(Some(epoch));
            }
            ReplicaMsg::Reported { epoch, rank, event } if epoch == state.epoch => {
                state.reported(&me, rank, event);
            }
            // An older epoch: that rank is gone.
            ReplicaMsg::Started { .. } | ReplicaMsg::Reported { .. } => {}
            ReplicaMsg::Recover(timer) => {
                if Timer::fires(&mut state.verdict, timer) {
                    state.recover(&me);
                }
            }
            ReplicaMsg::Restart(timer) => {
                if Timer::fires(&mut state.restart, timer) {
                    state.start_or_wait(&me).await;
                }
            }
            ReplicaMsg::Drain { deadline } => state.drain(&me, deadline),
            ReplicaMsg::Overdue(timer) => {
                if Timer::fires(&mut state.overdue, timer) {
                    state.vacate(&me);
                }
            }
            ReplicaMsg::Vacated(timer) => {
                if Timer::fires(&mut state.vacated, timer) {
                    state.rest();
                    if let Some(revival) = state.revival.take() {
                        state.revive(&me, revival).await;
                    }
                }
            }
            ReplicaMsg::Revive(revival) => state.revive(&me, revival).await,
            ReplicaMsg::Watch => state.look(&me),
            ReplicaMsg::Readmit(timer) => {
                if Timer::fires(&mut state.readmission, timer) {
                    state.readmit();
                }
            }
        }
        state.eject_if_slow(&me);
        state.vacate_if_idle(&me);
        state.fill_pipeline();
        state.watch(&me);
        state.count_stages();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<ReplicaMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, why) if state.has_stage(who.get_id()) => {
                let loss = why.downcast_ref::<Loss>().cloned();
                let loss = loss.unwrap_or_else(|| Loss::outside(why.to_string()));
                state.restart_all(&me, &loss);
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ReplicaMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Ends the ranks.
        drop(state.end_epoch());
        state.report.state(ReplicaState::Stopped);
        state.over = true;
        // Whoever is left goes on elsewhere, if there is anybody.
        drop(std::mem::take(&mut state.sinks));
        let ranks = state.ranks.gone();
        if timeout(RANKS_END_MAX, ranks).await.is_err() {
            warn!(replica = %state.id, "ranks have not ended within {RANKS_END_MAX:?}");
        }
        Ok(())
    }
}

// === impl State ===

impl Drop for State {
    /// Runs also when a handler has panicked (**R-2**). Requests that are left are lost with what was
    /// known of them here, and go on behind what their callers have seen.
    fn drop(&mut self) {
        if !self.over {
            let reason = "its actor failed; another is started".to_owned();
            self.report.state(ReplicaState::Failed { reason });
            self.sinks.lose();
        }
    }
}

impl State {
    async fn start_stages(&mut self, me: &ActorRef<ReplicaMsg>) -> Result<(), ActorProcessingErr> {
        let Some(starter) = &self.starter else { return Ok(()) };
        self.restarts.starts(self.clock.now());
        for indices in self.map.stage_indices() {
            let (starter, ranks) = (Arc::clone(starter), Arc::clone(&self.ranks));
            let (id, epoch, replica) = (self.id, self.epoch, me.clone());
            let args = StageArgs { epoch, id, indices, starter, ranks, replica };
            let (stage, _) = Actor::spawn_linked(None, Stage, args, me.get_cell()).await?;
            self.stages.push(stage);
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn take(&mut self, pending: Pending) {
        self.report.accepted();
        if pending.sink.is_abandoned() {
            return;
        }
        match pending.enter(&mut self.scheduler, self.clock.now()) {
            Ok(sink) => self.sinks.insert(sink),
            Err((sink, why)) => sink.end(FinishReason::Failed(why.to_string())),
        }
        // It may have been sent here before it was known that this replica does not serve.
        if !self.replicas.serves(self.id) {
            self.hand_over();
        }
    }

    /// Ends the requests whose callers have left (**GE-1** of `generation`).
    fn cancel_abandoned(&mut self) {
        self.departures.lower();
        for id in self.sinks.abandoned() {
            match self.scheduler.cancel(id) {
                Some(emission) => self.deliver(emission),
                None => drop(self.sinks.remove(id)),
            }
        }
    }

    /// Gives every request without a seat to a replica that serves (**C-6**), or parks it until one
    /// does, be it this one (**C-7**).
    fn hand_over(&mut self) {
        for moved in self.scheduler.evacuate() {
            let Some(mut sink) = self.sinks.remove(moved.request().id) else { continue };
            if sink.is_abandoned() {
                continue;
            }
            let other = self.replicas.pick_other(moved.request(), self.id);
            match other {
                None => self.replicas.park(Pending::moved(moved, sink)),
                Some(other) => {
                    self.report.migrated(self.cause);
                    sink.move_to(other);
                    self.replicas.send_or_park(other, Pending::moved(moved, sink));
                }
            }
        }
    }

    fn has_stage(&self, id: ActorId) -> bool {
        self.stages.iter().any(|stage| stage.get_id() == id)
    }

    fn reported(&mut self, me: &ActorRef<ReplicaMsg>, rank: RankId, event: RankEvent) {
        match event {
            RankEvent::Seated(whereabouts) => {
                self.report.shard(rank, |shard| shard.whereabouts = Some(whereabouts));
            }
            RankEvent::Loading { bytes, of } => {
                self.report.shard(rank, |shard| shard.state = ShardState::Loading { bytes, of });
            }
            RankEvent::Cache { kv_blocks } => self.pipeline.holds(kv_blocks),
            RankEvent::Ready => {
                self.report.shard(rank, |shard| shard.state = ShardState::Ready);
                self.pipeline.ready(rank);
                self.announce();
            }
            RankEvent::Step(outcome) => {
                if let Err(why) =
                    self.ran(rank, outcome.step).and_then(|()| self.settle(rank, outcome))
                {
                    self.broken(me, rank, &why);
                }
            }
            RankEvent::Followed(step) => {
                if let Err(why) = self.ran(rank, step) {
                    self.broken(me, rank, &why);
                }
            }
            // Its shard has failed, and the news of that is on the way; see `blame`.
            RankEvent::Lost(_) => {}
        }
    }

    fn ran(&mut self, rank: RankId, step: StepId) -> Result<(), String> {
        self.pipeline.ran(rank, step).map_err(|why| why.to_string())?;
        let (id, now) = (self.id, self.now());
        let Self { watchdog, pipeline, slowness, replicas, .. } = self;
        watchdog.ran(pipeline.done(), now, |work, took| {
            let paces = replicas.paces();
            paces.measured(id, work, took);
            slowness.measured(took, paces.expected(id, work), now);
        });
        Ok(())
    }

    /// With its last rank the replica serves.
    fn announce(&mut self) {
        if self.pipeline.serves() && self.duty == Duty::Serve {
            self.restarts.serves(self.now());
            // Plans may use what every rank of this epoch has (**MM-2**).
            if let Some(kv_blocks) = self.pipeline.kv_blocks() {
                self.scheduler.resize(kv_blocks);
                self.report.cache(kv_blocks);
            }
            info!(replica = %self.id, epoch = %self.epoch, "replica serving");
            self.report.serves();
            self.replicas.wake_parked();
        }
    }

    /// Takes in what came of a step.
    ///
    /// # Errors
    /// How it breaks the contract of plans and outcomes; nothing has changed then.
    fn settle(&mut self, rank: RankId, outcome: StepOutcome) -> Result<(), String> {
        let now = self.now();
        if !self.pipeline.samples(rank) || outcome.epoch != self.epoch {
            return Err(format!(
                "an outcome of {} came, which nobody expects there",
                outcome.epoch
            ));
        }
        let emissions = self.scheduler.apply(outcome, now).map_err(|why| why.to_string())?;
        self.pipeline.settled(now);
        // Whoever sees a request end finds its blocks free in the metrics.
        self.report.update(self.epoch, &mut self.scheduler);
        for emission in emissions {
            self.deliver(emission);
        }
        Ok(())
    }

    fn deliver(&mut self, emission: Emission) {
        self.sinks.deliver(emission);
    }

    fn fill_pipeline(&mut self) {
        while self.pipeline.has_room() {
            let now = self.now();
            let Some(plan) = self.scheduler.plan_step(now) else { break };
            self.report.planned(&plan);
            self.watchdog.began(&plan, now);
            let span = self.trace(&plan, now);
            self.pipeline.submit(plan, now);
            self.pipeline.trace(span);
        }
        self.report.update(self.epoch, &mut self.scheduler);
        for expired in self.scheduler.take_expired() {
            self.deliver(expired);
        }
    }

    /// The span of a step, if it is to have one (**ST-1**, **ST-2**).
    fn trace(&mut self, plan: &StepPlan, now: Duration) -> TraceSpan {
        let mut step = TraceSpan::none();
        if !self.sinks.is_traced() {
            return step;
        }
        for admitted in &plan.admitted {
            let id = self.scheduler.request_in(admitted.slot);
            if let Some(journey) = id.and_then(|id| self.sinks.journey(id)) {
                journey.seated();
            }
        }
        let due = now >= self.traced + PACE;
        for others in [false, true] {
            for run in &plan.runs {
                let id = self.scheduler.request_in(run.slot);
                let Some(journey) = id.and_then(|id| self.sinks.journey(id)) else { continue };
                if others {
                    step.link(journey.span());
                } else if !step.is_on() && (due || journey.prefills()) {
                    step = journey.span().child("step");
                }
            }
        }
        if step.is_on() {
            step_trace::describe(&step, plan, self.epoch);
            self.traced = now;
        }
        step
    }

    /// Counts the time that has passed for the stages.
    fn count_stages(&mut self) {
        let stats = self.scheduler.stats();
        let counts = self.pipeline.serves() && stats.running + stats.waiting > 0;
        let in_flight = counts.then_some(self.pipeline.in_flight());
        let time = self.bubble.advance(in_flight, self.now());
        self.report.stages(time);
    }

    /// Sees to it that somebody looks after the steps under way.
    fn watch(&mut self, me: &ActorRef<ReplicaMsg>) {
        if self.watchdog.is_on() && !self.watched {
            self.watched = true;
            me.send_after(TICK, || ReplicaMsg::Watch);
        }
        self.report.patience(self.watchdog.patience());
    }
}
