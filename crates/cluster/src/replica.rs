//! Replica: one copy of the model. Owns the schedule and the epoch; knows its ranks only by their
//! step ports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use playhouse_engine::StepPort;
use playhouse_scheduler::{Limits, Scheduler};
use playhouse_telemetry::Metrics;
use playhouse_types::{Emission, Epoch, FinishReason, GenerateRequest, RequestId, StepOutcome};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::generation::Sink;
use crate::report::Report;
use crate::restart::RestartBudget;
use crate::shard::{EngineFactory, ShardArgs};
use crate::stage::{Stage, StageMsg};
use crate::state::ReplicaState;

/// Steps in flight at once. One, while a replica has one stage: a second step could only hold
/// requests left out of the first, and would split the batch.
const STEPS_IN_FLIGHT: usize = 1;

pub(crate) struct Replica;

#[derive(Clone)]
pub(crate) struct ReplicaArgs {
    pub(crate) limits: Limits,
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
    /// An engine has run a step.
    StepDone(StepOutcome),
    /// The backoff is over: start again.
    Restart,
}

pub(crate) struct State {
    args: ReplicaArgs,
    scheduler: Scheduler,
    sinks: HashMap<RequestId, Sink>,
    epoch: Epoch,
    stage: ActorRef<StageMsg>,
    port: Option<StepPort>,
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
            stage: start_stage(&me, &args, epoch).await?,
            args,
            sinks: HashMap::new(),
            epoch,
            port: None,
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
            ReplicaMsg::EngineStarted { epoch, port } if epoch == state.epoch => state.serve(port),
            ReplicaMsg::StepDone(outcome) if outcome.epoch == state.epoch => state.settle(outcome),
            // An older epoch: that engine is gone.
            ReplicaMsg::EngineStarted { .. } | ReplicaMsg::StepDone(_) => {}
            ReplicaMsg::Restart => {
                state.stage = start_stage(&me, &state.args, state.epoch).await?;
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
            SupervisionEvent::ActorFailed(who, why) if who.get_id() == state.stage.get_id() => {
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
        state.port = None; // ends the engine, which its shard joins
        state.args.state.send_replace(ReplicaState::Stopped);
        state.stage.stop_and_wait(None, None).await?;
        Ok(())
    }
}

async fn start_stage(
    me: &ActorRef<ReplicaMsg>,
    args: &ReplicaArgs,
    epoch: Epoch,
) -> Result<ActorRef<StageMsg>, ActorProcessingErr> {
    let engine = Arc::clone(&args.engine);
    let shard = ShardArgs { epoch, engine, replica: me.clone() };
    let (stage, _) = Actor::spawn_linked(None, Stage, shard, me.get_cell()).await?;
    Ok(stage)
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

    fn serve(&mut self, port: StepPort) {
        info!(epoch = %self.epoch, "replica serving");
        self.port = Some(port);
        self.args.state.send_replace(ReplicaState::Serving);
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
        while self.in_flight < STEPS_IN_FLIGHT {
            let Some(port) = &self.port else { break };
            let Some(plan) = self.scheduler.plan_step(self.origin.elapsed()) else { break };
            self.report.planned(&plan);
            // An engine that is gone has said so to its shard; the restart is on its way.
            if port.submit(plan).is_err() {
                self.port = None;
                break;
            }
            self.in_flight += 1;
        }
        self.report.update(&mut self.scheduler);
    }

    /// One for all: the requests stay, everything below them starts again in a higher epoch
    /// (**C-5**). Returns the backoff, or the error that escalates.
    fn restart_all(&mut self, reason: &str) -> Result<Duration, ActorProcessingErr> {
        self.port = None;
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
