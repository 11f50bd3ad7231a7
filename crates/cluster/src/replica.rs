//! Replica: one copy of the model. Owns the schedule and the epoch; knows its ranks only by their
//! step ports.

mod leaving;
mod sinks;

use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Evacuee, Limits, Scheduler, Terms};
use playhouse_telemetry::{ReplicaMetrics, TraceSpan};
use playhouse_types::{
    Emission, Epoch, FinishReason, GenerateRequest, ReplicaId, RequestId, StepOutcome, StepPlan,
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::{error, info, warn};

pub(crate) use self::leaving::Revival;

use self::leaving::Duty;
use self::sinks::Sinks;
use crate::bubble::Bubble;
use crate::clock::Clock;
use crate::generation::Sink;
use crate::parking::Visit;
use crate::pipeline::Pipeline;
use crate::rank::{Layout, Loss, LossCause, Rank, RankEvent, RankHandle, RankStarter};
use crate::report::{Board, Report};
use crate::restart::RestartBudget;
use crate::routing::Teller;
use crate::seats::Seats;
use crate::shard::PortSlot;
use crate::stage::{Stage, StageArgs, StageMsg};
use crate::status::{ReplicaState, ShardState};
use crate::step_trace::{self, PACE};
use crate::watchdog::{Overdue, StepDeadline, TICK, Watchdog};

/// How long after the first loss of an epoch the others may come in. One of several ranks dies of a
/// step, and the others lose it: which of them is heard first says nothing.
const VERDICT: Duration = Duration::from_millis(10);

/// Before a rank that found no device looks for one again.
const NO_SEAT_BACKOFF: Duration = Duration::from_millis(500);

pub(crate) struct Replica;

pub(crate) struct ReplicaArgs {
    pub(crate) id: ReplicaId,
    /// Its first; higher than that of whoever had this id before.
    pub(crate) epoch: Epoch,
    pub(crate) limits: Limits,
    pub(crate) layout: Layout,
    pub(crate) concurrent_batches: usize,
    pub(crate) step_deadline: StepDeadline,
    /// Without one it rests, as after a drain.
    pub(crate) starter: Option<RankStarter>,
    pub(crate) metrics: ReplicaMetrics,
    pub(crate) board: Board,
    pub(crate) teller: Teller,
    /// Where requests go that cannot stay.
    pub(crate) seats: Arc<Seats>,
    pub(crate) clock: Clock,
}

pub(crate) enum ReplicaMsg {
    /// Take a request in; its emissions go to the sink.
    Admit(GenerateRequest, Terms, Sink),
    /// Take over what another replica cannot serve now.
    Adopt(Box<Evacuee>, Sink),
    /// The caller left.
    Cancel(RequestId),
    /// A shard has started its rank.
    Started { epoch: Epoch, rank: Rank, port: PortSlot, handle: Arc<dyn RankHandle> },
    /// A rank reports.
    Reported { epoch: Epoch, rank: Rank, event: RankEvent },
    /// It is known why the ranks of an epoch were lost: see to the requests.
    Recover { lost: Epoch },
    /// The backoff is over: start this epoch.
    Restart { epoch: Epoch },
    /// Take no more requests, and give up the ranks when those there are have ended, or at the
    /// deadline.
    Drain { deadline: Duration },
    /// The deadline of a drain that began in this epoch has passed.
    Overdue { epoch: Epoch },
    /// The ranks before this epoch have ended.
    Vacated { epoch: Epoch },
    /// Serve again, after a drain or a failure.
    Revive(Revival),
    /// Look after the steps under way.
    Watch,
}

pub(crate) struct State {
    id: ReplicaId,
    layout: Layout,
    concurrent_batches: usize,
    /// While it has ranks or shall have some.
    starter: Option<RankStarter>,
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
    /// Before the next start; none past the budget.
    backoff: Option<Duration>,
    /// What ranks were lost of last.
    cause: LossCause,
    /// The latest epoch that may have died of what it was computing.
    died_of_step: Option<Epoch>,
    seats: Arc<Seats>,
    report: Report,
    clock: Clock,
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
        let ReplicaArgs { id, epoch, limits, layout, concurrent_batches, metrics, .. } = args;
        let mut state = State {
            id,
            layout,
            concurrent_batches,
            duty: if args.starter.is_some() { Duty::Serve } else { Duty::Rest },
            starter: args.starter,
            revival: None,
            scheduler: Scheduler::new(limits, epoch),
            sinks: Sinks::default(),
            epoch,
            stages: Vec::new(),
            pipeline: Pipeline::new(layout, concurrent_batches),
            bubble: Bubble::new(layout.stages),
            traced: Duration::ZERO,
            watchdog: Watchdog::new(args.step_deadline),
            watched: false,
            restarts: RestartBudget::new(id.0.into()),
            backoff: None,
            cause: LossCause::Outside,
            died_of_step: None,
            report: Report::new(metrics, args.board, args.teller, &limits),
            seats: args.seats,
            clock: args.clock,
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
            ReplicaMsg::Admit(request, terms, sink) => state.admit(request, terms, sink),
            ReplicaMsg::Adopt(moved, sink) => state.adopt(*moved, sink),
            ReplicaMsg::Cancel(id) => state.cancel(id),
            ReplicaMsg::Started { epoch, rank, port, handle } if epoch == state.epoch => {
                if let Some(port) = port.take() {
                    state.pipeline.connect(rank, port, handle);
                    state.announce();
                }
            }
            ReplicaMsg::Reported { epoch, event: RankEvent::Lost(loss), .. }
                if loss.cause.is_of_step() =>
            {
                state.died_of_step = Some(epoch);
            }
            ReplicaMsg::Reported { epoch, rank, event } if epoch == state.epoch => {
                state.reported(rank, event);
            }
            // An older epoch: that rank is gone.
            ReplicaMsg::Started { .. } | ReplicaMsg::Reported { .. } => {}
            ReplicaMsg::Recover { lost } => state.recover(&me, lost),
            ReplicaMsg::Restart { epoch } if epoch == state.epoch => state.start(&me).await,
            ReplicaMsg::Drain { deadline } => state.drain(&me, deadline),
            ReplicaMsg::Overdue { epoch } if epoch == state.epoch => state.overdue(&me),
            ReplicaMsg::Vacated { epoch } if epoch == state.epoch => {
                state.vacated();
                if let Some(revival) = state.revival.take() {
                    state.revive(&me, revival).await;
                }
            }
            ReplicaMsg::Restart { .. }
            | ReplicaMsg::Overdue { .. }
            | ReplicaMsg::Vacated { .. } => {}
            ReplicaMsg::Revive(revival) => state.revive(&me, revival).await,
            ReplicaMsg::Watch => state.look(&me),
        }
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
        // Ends the ranks, for which their shards wait.
        let pipeline = Pipeline::new(state.layout, state.concurrent_batches);
        std::mem::replace(&mut state.pipeline, pipeline).vacate();
        state.report.state(ReplicaState::Stopped);
        for stage in &state.stages {
            stage.stop_and_wait(None, None).await?;
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    /// Starts the ranks of an epoch, or tries again later.
    async fn start(&mut self, me: &ActorRef<ReplicaMsg>) {
        if let Err(why) = self.start_stages(me).await {
            self.restart_all(me, &Loss::no_seat(why.to_string()));
        }
    }

    async fn start_stages(&mut self, me: &ActorRef<ReplicaMsg>) -> Result<(), ActorProcessingErr> {
        let Some(starter) = &self.starter else { return Ok(()) };
        let Layout { stages, tensor } = self.layout;
        for stage in 0..stages {
            let first = Rank { replica: self.id, stage, tensor: 0 };
            let (starter, replica) = (Arc::clone(starter), me.clone());
            let args = StageArgs { epoch: self.epoch, first, tensor, starter, replica };
            let (stage, _) = Actor::spawn_linked(None, Stage, args, me.get_cell()).await?;
            self.stages.push(stage);
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn admit(&mut self, request: GenerateRequest, terms: Terms, sink: Sink) {
        let id = request.id;
        self.report.accepted();
        match self.scheduler.enqueue(request, terms, self.now()) {
            Ok(()) => {
                self.sinks.insert(id, sink);
            }
            Err(why) => sink.finish(failure(id, &why.to_string())),
        }
        self.hand_over_late();
    }

    fn adopt(&mut self, moved: Evacuee, sink: Sink) {
        self.report.accepted();
        // The caller's cancellation may have gone to the replica it comes from.
        if !sink.is_abandoned() {
            self.sinks.insert(moved.request().id, sink);
            self.scheduler.adopt(moved);
        }
        self.hand_over_late();
    }

    /// What was sent here before it was known that this replica does not serve.
    fn hand_over_late(&mut self) {
        if !self.seats.serves(self.id) {
            self.hand_over();
        }
    }

    /// Gives every request without a seat to a replica that serves (**C-6**), or parks it until one
    /// does, be it this one (**C-7**).
    fn hand_over(&mut self) {
        for moved in self.scheduler.evacuate() {
            let Some(mut sink) = self.sinks.remove(moved.request().id) else { continue };
            let other = self.seats.pick_other(moved.request(), self.id);
            let visit = Visit::Moved(Box::new(moved));
            match other {
                None => {
                    sink.move_to_parking();
                    self.seats.park(visit, sink);
                }
                Some(other) => {
                    self.report.migrated(self.cause);
                    sink.move_to(other);
                    self.seats.cast(other, visit.message(sink));
                }
            }
        }
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(emission) = self.scheduler.cancel(id) {
            self.deliver(emission);
        }
    }

    fn has_stage(&self, id: ActorId) -> bool {
        self.stages.iter().any(|stage| stage.get_id() == id)
    }

    fn reported(&mut self, rank: Rank, event: RankEvent) {
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
                self.ran(rank);
                self.settle(outcome);
            }
            RankEvent::Followed(_) => self.ran(rank),
            // Its shard has failed, and the news of that is on the way; see `blame`.
            RankEvent::Lost(_) => {}
        }
    }

    fn ran(&mut self, rank: Rank) {
        self.pipeline.ran(rank);
        self.watchdog.ran(self.pipeline.done(), self.now());
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
            self.seats.wake_parked();
        }
    }

    fn settle(&mut self, outcome: StepOutcome) {
        let now = self.now();
        self.pipeline.settled(now);
        let emissions = self.scheduler.apply(outcome, now);
        // Whoever sees a request end finds its blocks free in the metrics.
        self.report.update(self.epoch, &mut self.scheduler);
        for emission in emissions {
            self.deliver(emission);
        }
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

    /// A rank whose step is overdue hangs, and its replica restarts (**C-8**). Requests are blamed for
    /// that as for a death: their step may hang again.
    fn look(&mut self, me: &ActorRef<ReplicaMsg>) {
        self.watched = false;
        let now = self.now();
        if let Some(Overdue { tokens, silence }) = self.watchdog.look(now) {
            let (ranks, first) = self.pipeline.abort_hung();
            let tensor = self.layout.tensor;
            let (stage, shard) = (first / tensor, first % tensor);
            let others = match ranks {
                0 | 1 => String::new(),
                _ => format!(" and {} that may wait for it", ranks - 1),
            };
            let reason = format!(
                "hung: stage {stage} shard {shard}{others} did not run a step of {tokens} tokens \
                 within {silence:.1?}"
            );
            self.report.hung(silence);
            self.died_of_step = Some(self.epoch);
            self.restart_all(me, &Loss { reason, cause: LossCause::Hang });
        }
    }

    /// One for all: everything below starts again in a higher epoch (**C-5**), unless that was tried
    /// too often. A rank without a device waits for one, however often.
    fn restart_all(&mut self, me: &ActorRef<ReplicaMsg>, loss: &Loss) {
        if self.duty != Duty::Serve {
            return self.vacate(me);
        }
        // Ends the ranks that live, once the dead one has ended their groups.
        let lost = self.epoch;
        let ranks = self.end_epoch();
        self.stages.drain(..).for_each(|stage| stage.stop(None));
        self.restarts.lost(self.now());
        self.cause = loss.cause;
        let reason = &loss.reason;
        self.backoff = match loss.cause {
            LossCause::NoSeat => Some(NO_SEAT_BACKOFF),
            LossCause::Step | LossCause::Hang | LossCause::Outside | LossCause::Drain => {
                self.restarts.take()
            }
        };
        match self.backoff {
            Some(backoff) => {
                warn!(replica = %self.id, epoch = %self.epoch, reason, ?backoff, "restarting");
                self.report.restarted(self.epoch, loss.cause, reason);
            }
            None => {
                error!(replica = %self.id, reason, "replica failed: restart budget spent");
                ranks.vacate();
                self.report.state(ReplicaState::Failed { reason: reason.clone() });
            }
        }
        me.send_after(VERDICT, move || ReplicaMsg::Recover { lost });
    }

    /// Takes the requests back from the ranks of a lost epoch, and hands them over.
    fn recover(&mut self, me: &ActorRef<ReplicaMsg>, lost: Epoch) {
        if self.epoch != Epoch(lost.0 + 1) {
            // It was drained meanwhile, which has seen to them.
            return;
        }
        let of_step = self.died_of_step == Some(lost);
        for emission in self.scheduler.restart(self.epoch, of_step) {
            self.deliver(emission);
        }
        self.hand_over();
        if let Some(backoff) = self.backoff {
            let epoch = self.epoch;
            me.send_after(backoff, move || ReplicaMsg::Restart { epoch });
        }
    }
}

fn failure(id: RequestId, reason: &str) -> Emission {
    let finish = Some(FinishReason::Failed(reason.to_owned()));
    Emission { id, cached_tokens: 0, prompt_logprobs: Vec::new(), token: None, finish }
}
