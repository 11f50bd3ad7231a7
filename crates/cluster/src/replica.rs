//! Replica: one copy of the model. The replica owns the schedule and the epoch, and knows its ranks only
//! by their step ports.
//!
//! - **R-1** what a rank reports is input: a report that breaks the contract of plans and outcomes restarts
//!   the ranks, and no report panics the actor (**A15**).
//! - **R-2** an actor that panics all the same says so in its status and gives its requests up to other
//!   replicas before it is gone (**C-1**); its supervisor starts another actor (**A16**).
//! - **R-3** the ranks of an epoch start when those of the epochs before have ended. Ranks that are
//!   threads cannot be ended from outside: the wait for them is limited to [`OLD_RANKS_MAX`], and
//!   omitted when they hang. The state becomes `Drained` only when all of them have ended, however long
//!   that takes (**A14**).

mod bubble;
mod leaving;
mod outlying;
mod pipeline;
mod recovery;
mod report;
mod requests;
mod shard;
mod sinks;
mod stage;
mod step_trace;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use playhouse_layout::RankMap;
use playhouse_scheduler::{Limits, Scheduler};
use playhouse_telemetry::ReplicaMetrics;
use playhouse_types::{Epoch, ReplicaId};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::timeout;
use tracing::{info, warn};

use self::bubble::Bubble;
use self::leaving::Duty;
use self::pipeline::Pipeline;
use self::recovery::Next;
use self::report::{Board, Report};
use self::sinks::Sinks;
use self::stage::{Stage, StageArgs, StageMsg};
use crate::clock::Clock;
use crate::departures::Departures;
use crate::live_ranks::LiveRanks;
use crate::load_reporter::LoadReporter;
use crate::mail::{ReplicaMsg, Revival};
use crate::outlier::Slowness;
use crate::rank::{Loss, LossCause, RankEvent, RankStarter};
use crate::replicas::Replicas;
use crate::restart::RestartBudget;
use crate::status::ReplicaState;
use crate::timer::{Timer, Timers};
use crate::watchdog::{StepDeadline, Watchdog};

/// How long ranks may take to end when their replica is stopped for good.
const RANKS_END_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Replica;

pub(crate) struct ReplicaArgs {
    pub(crate) id: ReplicaId,
    /// The first epoch; higher than any epoch of an earlier replica with this id.
    pub(crate) epoch: Epoch,
    pub(crate) limits: Limits,
    pub(crate) map: Arc<RankMap>,
    pub(crate) concurrent_batches: usize,
    pub(crate) step_deadline: StepDeadline,
    /// The starter of the ranks. Without one the replica rests, as after a drain.
    pub(crate) starter: Option<RankStarter>,
    pub(crate) ranks: Arc<LiveRanks>,
    pub(crate) departures: Arc<Departures>,
    /// How long requests may wait for the replica.
    pub(crate) patience: Duration,
    pub(crate) metrics: ReplicaMetrics,
    pub(crate) board: Board,
    pub(crate) load_reporter: LoadReporter,
    /// The replicas to which requests go that cannot stay.
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) clock: Clock,
}

pub(crate) struct State {
    id: ReplicaId,
    map: Arc<RankMap>,
    concurrent_batches: usize,
    /// The starter, while the replica has ranks or shall have some.
    starter: Option<RankStarter>,
    ranks: Arc<LiveRanks>,
    departures: Arc<Departures>,
    duty: Duty,
    /// The order to serve again as soon as the ranks have ended.
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
    /// Whether a [`ReplicaMsg::Watch`] is on its way.
    watched: bool,
    restarts: RestartBudget,
    patience: Duration,
    timers: Timers,
    /// Runs until the cause of the last epoch's loss is known.
    verdict: Option<Timer>,
    /// Runs until the next epoch starts.
    restart: Option<Timer>,
    /// Runs until the deadline of the drain under way.
    overdue: Option<Timer>,
    /// Runs until no rank is left.
    vacated: Option<Timer>,
    /// The next act, after the verdict.
    next: Next,
    /// The number of steps computed when a request was found guilty last.
    steps_at_conviction: u64,
    slowness: Slowness,
    /// Runs until the replica is tried again after it was an outlier.
    readmission: Option<Timer>,
    /// The cause of the last loss of ranks.
    cause: LossCause,
    /// The latest epoch that may have died of what it was computing.
    died_of_step: Option<Epoch>,
    replicas: Arc<Replicas>,
    report: Report,
    clock: Clock,
    /// Whether the replica has said how it ended.
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
            Duty::Rest => {
                state.report.ranks_ended();
                state.report.state(ReplicaState::Drained);
            }
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
        // A step that settles is reported there, once.
        let settled = matches!(message, ReplicaMsg::Reported { event: RankEvent::Step(_), .. });
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
            ReplicaMsg::Reported { epoch, rank, event: RankEvent::Followed(step) }
                if epoch == state.epoch =>
            {
                let done = state.pipeline.done();
                if !state.followed(&me, rank, step) {
                    // What is under way now has a patience of its own.
                    if state.pipeline.done() > done {
                        state.eject_if_slow(&me);
                        state.watch(&me);
                    }
                    return Ok(());
                }
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
        if state.plan_steps() || !settled {
            state.tell();
        }
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
        state.report.ranks_ended();
        drop(state.end_epoch());
        state.report.state(ReplicaState::Stopped);
        state.over = true;
        // Requests that are left go on elsewhere, if another replica serves.
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
    /// Runs also when a handler has panicked (**R-2**). What this replica knew of its requests is lost;
    /// the requests go on behind what their callers have seen.
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

    fn has_stage(&self, id: ActorId) -> bool {
        self.stages.iter().any(|stage| stage.get_id() == id)
    }

    /// Announces that the replica serves, once its last rank is ready.
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
}
