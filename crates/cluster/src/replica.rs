//! Replica: one copy of the model. Owns the schedule and the epoch; knows its ranks only by their
//! step ports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use playhouse_engine::{STEPS_QUEUED_MAX, StepPort};
use playhouse_scheduler::{Limits, Scheduler};
use playhouse_telemetry::Metrics;
use playhouse_types::{Emission, Epoch, FinishReason, GenerateRequest, RequestId, StepOutcome};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::generation::Sink;
use crate::report::Report;
use crate::restart::RestartBudget;
use crate::shard::{EngineFactory, Layout, Rank};
use crate::stage::{Stage, StageArgs, StageMsg};
use crate::state::ReplicaState;

pub(crate) struct Replica;

#[derive(Clone)]
pub(crate) struct ReplicaArgs {
    pub(crate) limits: Limits,
    pub(crate) layout: Layout,
    pub(crate) engine: EngineFactory,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: watch::Sender<ReplicaState>,
}

pub(crate) enum ReplicaMsg {
    /// Take a request in; its emissions go to the sink.
    Admit(GenerateRequest, Sink),
    /// The caller left.
    Cancel(RequestId),
    /// A shard has started its engine.
    EngineStarted { epoch: Epoch, port: StepPort },
    /// An engine has its model and the ranks it computes with.
    EngineReady { epoch: Epoch },
    /// The engine that samples has run a step.
    StepDone(StepOutcome),
    /// Another engine has run a step.
    StepFollowed { epoch: Epoch, rank: Rank },
    /// The backoff is over: start again.
    Restart,
}

pub(crate) struct State {
    args: ReplicaArgs,
    scheduler: Scheduler,
    sinks: HashMap<RequestId, Sink>,
    epoch: Epoch,
    stages: Vec<ActorRef<StageMsg>>,
    /// Of the engines that have started.
    ports: Vec<StepPort>,
    /// Engines that can take plans.
    ready: usize,
    /// Steps planned in this epoch.
    planned: usize,
    /// Steps that each engine has run in this epoch, stage by stage.
    reports: Vec<usize>,
    in_flight: usize,
    restarts: RestartBudget,
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
        let epoch = Epoch(1);
        let report = Report::new(Arc::clone(&args.metrics), &args.limits);
        Ok(State {
            scheduler: Scheduler::new(args.limits, epoch),
            stages: start_stages(&me, &args, epoch).await?,
            args,
            sinks: HashMap::new(),
            epoch,
            ports: Vec::new(),
            ready: 0,
            planned: 0,
            reports: Vec::new(),
            in_flight: 0,
            restarts: RestartBudget::default(),
            report,
            origin: Instant::now(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<ReplicaMsg>,
        message: ReplicaMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ReplicaMsg::Admit(request, sink) => state.admit(request, sink),
            ReplicaMsg::Cancel(id) => state.cancel(id),
            ReplicaMsg::EngineStarted { epoch, port } if epoch == state.epoch => {
                state.ports.push(port);
                state.announce();
            }
            ReplicaMsg::EngineReady { epoch } if epoch == state.epoch => {
                state.ready += 1;
                state.announce();
            }
            ReplicaMsg::StepDone(outcome) if outcome.epoch == state.epoch => {
                let stage = state.args.layout.stages - 1;
                state.reported(Rank { stage, tensor: 0 });
                state.settle(outcome);
            }
            ReplicaMsg::StepFollowed { epoch, rank } if epoch == state.epoch => {
                state.reported(rank);
            }
            // An older epoch: that engine is gone.
            ReplicaMsg::EngineStarted { .. }
            | ReplicaMsg::EngineReady { .. }
            | ReplicaMsg::StepDone(_)
            | ReplicaMsg::StepFollowed { .. } => {}
            ReplicaMsg::Restart => {
                state.stages = start_stages(&me, &state.args, state.epoch).await?;
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
                let backoff = state.restart_all(&why.to_string())?;
                me.send_after(backoff, || ReplicaMsg::Restart);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn post_stop(
        &self,
        _: ActorRef<ReplicaMsg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.ports.clear(); // ends the engines, which their shards join
        state.args.state.send_replace(ReplicaState::Stopped);
        for stage in &state.stages {
            stage.stop_and_wait(None, None).await?;
        }
        Ok(())
    }
}

async fn start_stages(
    me: &ActorRef<ReplicaMsg>,
    args: &ReplicaArgs,
    epoch: Epoch,
) -> Result<Vec<ActorRef<StageMsg>>, ActorProcessingErr> {
    let Layout { stages, tensor } = args.layout;
    let mut started = Vec::with_capacity(stages);
    for stage in 0..stages {
        let (engine, replica) = (Arc::clone(&args.engine), me.clone());
        let args = StageArgs { epoch, stage, tensor, engine, replica };
        started.push(Actor::spawn_linked(None, Stage, args, me.get_cell()).await?.0);
    }
    Ok(started)
}

// === impl State ===

impl State {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn admit(&mut self, request: GenerateRequest, sink: Sink) {
        let id = request.id;
        match self.scheduler.enqueue(request, self.now()) {
            Ok(()) => {
                self.sinks.insert(id, sink);
            }
            Err(why) => sink.finish(failure(id, why.to_string())),
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

    /// Ranks of the replica.
    fn ranks(&self) -> usize {
        self.args.layout.stages * self.args.layout.tensor
    }

    /// Every engine can take plans, and we know where.
    fn serves(&self) -> bool {
        self.ready == self.ranks() && self.ports.len() == self.ranks()
    }

    fn reported(&mut self, Rank { stage, tensor }: Rank) {
        self.reports.resize(self.ranks(), 0);
        self.reports[stage * self.args.layout.tensor + tensor] += 1;
    }

    /// The queue of the engine that is furthest behind has room. The one that samples may be ahead.
    fn may_submit(&self) -> bool {
        let least = self.reports.iter().min().copied().unwrap_or(0);
        self.planned - least < STEPS_QUEUED_MAX
    }

    /// With the last engine the replica serves. An engine may be ready before its shard says that
    /// it has started.
    fn announce(&mut self) {
        if self.serves() {
            info!(epoch = %self.epoch, "replica serving");
            self.args.state.send_replace(ReplicaState::Serving);
        }
    }

    /// Steps in flight at most. One stage has one: a second step could only hold requests left out
    /// of the first, and would split the batch. Several have one more than there are stages, so
    /// that the first has a step to begin while the last reports (the batch queue of vLLM's
    /// `step_with_batch_queue`).
    fn depth(&self) -> usize {
        if self.args.layout.stages == 1 { 1 } else { self.args.layout.stages + 1 }
    }

    fn settle(&mut self, outcome: StepOutcome) {
        self.in_flight -= 1;
        let now = self.now();
        let emissions = self.scheduler.apply(outcome, now);
        // Whoever sees a request end finds its blocks free in the metrics.
        self.report.update(&mut self.scheduler);
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
        while self.serves() && self.in_flight < self.depth() && self.may_submit() {
            let Some(plan) = self.scheduler.plan_step(self.origin.elapsed()) else { break };
            self.report.planned(&plan);
            self.in_flight += 1;
            self.planned += 1;
            let Some((last, others)) = self.ports.split_last() else { break };
            // An engine that is gone has said so to its shard; the restart is on its way.
            if others.iter().any(|port| port.submit(plan.clone()).is_err())
                || last.submit(plan).is_err()
            {
                self.ready = 0;
            }
        }
        self.report.update(&mut self.scheduler);
    }

    /// One for all: the requests stay, everything below them starts again in a higher epoch
    /// (**C-5**). Returns the backoff, or the error that escalates.
    fn restart_all(&mut self, reason: &str) -> Result<Duration, ActorProcessingErr> {
        // Ends the engines that live, once the dead one has ended their groups.
        self.ports.clear();
        self.stages.drain(..).for_each(|stage| stage.stop(None));
        self.ready = 0;
        self.planned = 0;
        self.reports.clear();
        self.in_flight = 0;
        let now = self.now();
        let Some(backoff) = self.restarts.take(now) else {
            error!(epoch = %self.epoch, reason, "replica failed: restart budget spent");
            let reason = reason.to_owned();
            self.args.state.send_replace(ReplicaState::Failed { reason: reason.clone() });
            for (id, sink) in self.sinks.drain() {
                sink.finish(failure(id, format!("the replica failed: {reason}")));
            }
            return Err(reason.into());
        };
        warn!(epoch = %self.epoch, reason, ?backoff, "replica restarting");
        self.epoch = Epoch(self.epoch.0 + 1);
        self.args.state.send_replace(ReplicaState::Restarting { reason: reason.to_owned() });
        self.report.restarted();
        for emission in self.scheduler.restart(self.epoch) {
            self.deliver(emission);
        }
        Ok(backoff)
    }
}

fn failure(id: RequestId, reason: String) -> Emission {
    let finish = Some(FinishReason::Failed(reason));
    Emission { id, cached_tokens: 0, prompt_logprobs: Vec::new(), token: None, finish }
}
