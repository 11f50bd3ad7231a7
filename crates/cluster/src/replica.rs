//! Replica: one copy of the model. Owns the schedule and the epoch; knows its ranks only by their
//! step ports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Evacuee, Limits, Scheduler};
use playhouse_telemetry::ReplicaMetrics;
use playhouse_types::{
    Emission, Epoch, FinishReason, GenerateRequest, ReplicaId, RequestId, StepOutcome,
};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::generation::Sink;
use crate::pipeline::Pipeline;
use crate::rank::{Layout, Loss, LossCause, Rank, RankEvent, RankPort, RankStarter};
use crate::report::{Board, Report};
use crate::restart::RestartBudget;
use crate::routing::Teller;
use crate::seats::Seats;
use crate::stage::{Stage, StageArgs, StageMsg};
use crate::status::{ReplicaState, ShardState};

/// How long after the first loss of an epoch the others may come in. One of several ranks dies of a
/// step, and the others lose it: which of them is heard first says nothing.
const VERDICT: Duration = Duration::from_millis(10);

/// Before a rank that found no device looks for one again.
const NO_SEAT_BACKOFF: Duration = Duration::from_millis(500);

pub(crate) struct Replica;

pub(crate) struct ReplicaArgs {
    pub(crate) id: ReplicaId,
    pub(crate) limits: Limits,
    pub(crate) layout: Layout,
    pub(crate) concurrent_batches: usize,
    pub(crate) starter: RankStarter,
    pub(crate) metrics: ReplicaMetrics,
    pub(crate) board: Board,
    pub(crate) teller: Teller,
    /// Where requests go that cannot stay.
    pub(crate) seats: Arc<Seats>,
    /// When time began.
    pub(crate) origin: Instant,
}

pub(crate) enum ReplicaMsg {
    /// Take a request in; its emissions go to the sink.
    Admit(GenerateRequest, Sink),
    /// Take over what another replica cannot serve now.
    Adopt(Box<Evacuee>, Sink),
    /// The caller left.
    Cancel(RequestId),
    /// A shard has started its rank.
    Started { epoch: Epoch, rank: Rank, port: RankPort },
    /// A rank reports.
    Reported { epoch: Epoch, rank: Rank, event: RankEvent },
    /// It is known why the ranks of an epoch were lost: see to the requests.
    Recover { lost: Epoch },
    /// The backoff is over: start again.
    Restart,
}

pub(crate) struct State {
    id: ReplicaId,
    layout: Layout,
    concurrent_batches: usize,
    starter: RankStarter,
    scheduler: Scheduler,
    sinks: HashMap<RequestId, Sink>,
    epoch: Epoch,
    stages: Vec<ActorRef<StageMsg>>,
    pipeline: Pipeline,
    restarts: RestartBudget,
    /// Before the next start; none past the budget.
    backoff: Option<Duration>,
    /// The latest epoch that may have died of what it was computing.
    died_of_step: Option<Epoch>,
    /// Past the budget: why. It serves nobody any more, and answers who does not know yet.
    failed: Option<String>,
    seats: Arc<Seats>,
    report: Report,
    origin: Instant,
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
        let ReplicaArgs { id, limits, layout, concurrent_batches, starter, metrics, .. } = args;
        let epoch = Epoch(1);
        let mut state = State {
            id,
            layout,
            concurrent_batches,
            starter,
            scheduler: Scheduler::new(limits, epoch),
            sinks: HashMap::new(),
            epoch,
            stages: Vec::new(),
            pipeline: Pipeline::new(layout, concurrent_batches),
            restarts: RestartBudget::default(),
            backoff: None,
            died_of_step: None,
            failed: None,
            report: Report::new(metrics, args.board, args.teller, &limits),
            seats: args.seats,
            origin: args.origin,
        };
        state.start_stages(&me).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<ReplicaMsg>,
        message: ReplicaMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ReplicaMsg::Admit(request, sink) => state.admit(request, sink),
            ReplicaMsg::Adopt(moved, sink) => state.adopt(*moved, sink),
            ReplicaMsg::Cancel(id) => state.cancel(id),
            ReplicaMsg::Started { epoch, rank, port } if epoch == state.epoch => {
                state.pipeline.connect(rank, port);
                state.announce();
            }
            ReplicaMsg::Reported { epoch, event: RankEvent::Lost(loss), .. }
                if loss.cause == LossCause::Step =>
            {
                state.died_of_step = Some(epoch);
            }
            ReplicaMsg::Reported { epoch, rank, event } if epoch == state.epoch => {
                state.reported(rank, event);
            }
            // An older epoch: that rank is gone.
            ReplicaMsg::Started { .. } | ReplicaMsg::Reported { .. } => {}
            ReplicaMsg::Recover { lost } => state.recover(&me, lost),
            ReplicaMsg::Restart => {
                if let Err(why) = state.start_stages(&me).await {
                    state.restart_all(&me, &Loss::no_seat(why.to_string()));
                }
            }
        }
        state.fill_pipeline();
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
        state.pipeline = Pipeline::new(state.layout, state.concurrent_batches);
        state.report.state(ReplicaState::Stopped);
        for stage in &state.stages {
            stage.stop_and_wait(None, None).await?;
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    async fn start_stages(&mut self, me: &ActorRef<ReplicaMsg>) -> Result<(), ActorProcessingErr> {
        let Layout { stages, tensor } = self.layout;
        for stage in 0..stages {
            let first = Rank { replica: self.id, stage, tensor: 0 };
            let (starter, replica) = (Arc::clone(&self.starter), me.clone());
            let args = StageArgs { epoch: self.epoch, first, tensor, starter, replica };
            let (stage, _) = Actor::spawn_linked(None, Stage, args, me.get_cell()).await?;
            self.stages.push(stage);
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn admit(&mut self, request: GenerateRequest, sink: Sink) {
        let id = request.id;
        self.report.accepted();
        if let Some(reason) = &self.failed {
            // It was sent before that was known.
            return match self.seats.pick_other(&request, self.id) {
                Some(other) => {
                    sink.move_to(other);
                    self.seats.cast(other, ReplicaMsg::Admit(request, sink));
                }
                None => sink.finish(failure(id, reason)),
            };
        }
        match self.scheduler.enqueue(request, self.now()) {
            Ok(()) => {
                self.sinks.insert(id, sink);
            }
            Err(why) => sink.finish(failure(id, &why.to_string())),
        }
    }

    fn adopt(&mut self, moved: Evacuee, sink: Sink) {
        self.report.accepted();
        // The caller's cancellation may have gone to the replica it comes from.
        if !sink.is_abandoned() {
            self.sinks.insert(moved.request().id, sink);
            self.scheduler.adopt(moved);
        }
        if self.failed.is_some() {
            self.hand_over();
        }
    }

    /// Gives every request to a replica that serves, if there is one (**C-6**). Who fails ends the
    /// others.
    fn hand_over(&mut self) {
        for moved in self.scheduler.evacuate() {
            let id = moved.request().id;
            match self.seats.pick_other(moved.request(), self.id) {
                None => self.scheduler.adopt(moved),
                Some(other) => {
                    let Some(sink) = self.sinks.remove(&id) else { continue };
                    sink.move_to(other);
                    self.seats.cast(other, ReplicaMsg::Adopt(Box::new(moved), sink));
                }
            }
        }
        if let Some(reason) = &self.failed {
            self.scheduler.evacuate();
            for (id, sink) in self.sinks.drain() {
                sink.finish(failure(id, reason));
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
            RankEvent::Ready => {
                self.report.shard(rank, |shard| shard.state = ShardState::Ready);
                self.pipeline.ready(rank);
                self.announce();
            }
            RankEvent::Step(outcome) => {
                self.pipeline.ran(rank);
                self.settle(outcome);
            }
            RankEvent::Followed(_) => self.pipeline.ran(rank),
            // Its shard has failed, and the news of that is on the way; see `blame`.
            RankEvent::Lost(_) => {}
        }
    }

    /// With its last rank the replica serves.
    fn announce(&mut self) {
        if self.pipeline.serves() {
            info!(replica = %self.id, epoch = %self.epoch, "replica serving");
            self.report.state(ReplicaState::Serving);
        }
    }

    fn settle(&mut self, outcome: StepOutcome) {
        self.pipeline.settled();
        let now = self.now();
        let emissions = self.scheduler.apply(outcome, now);
        // Whoever sees a request end finds its blocks free in the metrics.
        self.report.update(self.epoch, &mut self.scheduler);
        for emission in emissions {
            self.deliver(emission);
        }
    }

    fn deliver(&mut self, emission: Emission) {
        if emission.finish.is_none() {
            if let Some(sink) = self.sinks.get(&emission.id) {
                sink.send(emission);
            }
        } else if let Some(sink) = self.sinks.remove(&emission.id) {
            sink.finish(emission);
        }
    }

    fn fill_pipeline(&mut self) {
        while self.pipeline.has_room() {
            let Some(plan) = self.scheduler.plan_step(self.origin.elapsed()) else { break };
            self.report.planned(&plan);
            self.pipeline.submit(plan);
        }
        self.report.update(self.epoch, &mut self.scheduler);
    }

    /// One for all: everything below starts again in a higher epoch (**C-5**), unless that was tried
    /// too often. A rank without a device waits for one, however often.
    fn restart_all(&mut self, me: &ActorRef<ReplicaMsg>, loss: &Loss) {
        // Ends the ranks that live, once the dead one has ended their groups.
        self.pipeline = Pipeline::new(self.layout, self.concurrent_batches);
        self.stages.drain(..).for_each(|stage| stage.stop(None));
        self.report.ranks_lost();
        let lost = self.epoch;
        self.epoch = Epoch(lost.0 + 1);
        let (now, reason) = (self.now(), &loss.reason);
        self.backoff = match loss.cause {
            LossCause::NoSeat => Some(NO_SEAT_BACKOFF),
            LossCause::Step | LossCause::Outside => self.restarts.take(now),
        };
        match self.backoff {
            Some(backoff) => {
                warn!(replica = %self.id, epoch = %self.epoch, reason, ?backoff, "restarting");
                self.report.restarted(self.epoch, reason);
            }
            None => {
                error!(replica = %self.id, reason, "replica failed: restart budget spent");
                self.report.state(ReplicaState::Failed { reason: reason.clone() });
                self.failed = Some(format!("the replica failed: {reason}"));
            }
        }
        me.send_after(VERDICT, move || ReplicaMsg::Recover { lost });
    }

    /// Takes the requests back from the ranks of a lost epoch, and hands them over if somebody else
    /// can serve them.
    fn recover(&mut self, me: &ActorRef<ReplicaMsg>, lost: Epoch) {
        let of_step = self.died_of_step == Some(lost);
        for emission in self.scheduler.restart(self.epoch, of_step) {
            self.deliver(emission);
        }
        self.hand_over();
        if let Some(backoff) = self.backoff {
            me.send_after(backoff, || ReplicaMsg::Restart);
        }
    }
}

fn failure(id: RequestId, reason: &str) -> Emission {
    let finish = Some(FinishReason::Failed(reason.to_owned()));
    Emission { id, cached_tokens: 0, prompt_logprobs: Vec::new(), token: None, finish }
}
