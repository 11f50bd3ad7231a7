//! Ranks that are processes: one each, on this machine or on nodes.
//!
//! A process outlives its epochs. When another rank of its replica dies it keeps its weights, and
//! only joins the next epoch's groups; so a replica is back as soon as the dead rank has its
//! weights again.

mod meeting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use playhouse_engine::STEPS_QUEUED_MAX;
use playhouse_link::{OpenError, RecvError, SendError, Stream};
use playhouse_planner::RankMap;
use playhouse_types::{Epoch, ReplicaId, StepPlan};
use playhouse_wire::{Join, Load, Loaded, ShardCommand, ShardEvent, StepCommand, StepEvent};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, mpsc};

use self::meeting::Meeting;
use crate::control::{ControlPlane, Process};
use crate::head::incarnation;
use crate::nodes::Seat;
use crate::rank::{
    Layout, Loss, LossCause, Rank, RankEvent, RankPort, RankSink, RankStarter, StartedRank,
};

/// How long a replica waits for devices before it counts as a failed start.
const DEVICES: Duration = Duration::from_secs(60);

/// How long a stream may take to open. A process that lives opens it at once.
const OPEN: Duration = Duration::from_secs(5);

/// What the ranks of a deployment are.
pub struct RemoteConfig {
    /// Ranks of each replica.
    pub layout: Layout,
    /// Where the ranks of one replica belong together.
    pub map: RankMap,
    /// What each of them loads, stage by stage. Their seats say with how many threads.
    pub loads: Vec<Load>,
    /// Blocks of each KV cache.
    pub kv_blocks: u32,
    /// Sequences that have a seat in a batch.
    pub max_num_seqs: u32,
}

/// Starts ranks as processes.
struct RemoteRanks {
    config: RemoteConfig,
    control: ControlPlane,
    /// Drives what waits and starts processes; the link's runtime passes plans on.
    runtime: Handle,
    slots: Mutex<HashMap<Rank, Slot>>,
    /// Numbers the processes, from the time of this start on.
    launches: AtomicU64,
    /// The latest epoch of each replica.
    cohorts: Mutex<HashMap<ReplicaId, Arc<Cohort>>>,
}

/// The process of a rank. One epoch at a time has it.
type Slot = Arc<AsyncMutex<Option<Process>>>;

/// The ranks of a replica in one epoch.
struct Cohort {
    epoch: Epoch,
    meeting: Meeting,
    seats: OnceCell<Vec<Seat>>,
}

/// A rank that takes plans.
struct Started {
    /// Ends the engine when it is dropped.
    _control: Stream<ShardCommand, ShardEvent>,
    steps: Stream<StepCommand, StepEvent>,
}

/// Starts each rank as a process.
#[must_use]
pub fn processes(config: RemoteConfig, control: ControlPlane) -> RankStarter {
    let ranks = Arc::new(RemoteRanks {
        config,
        control,
        runtime: Handle::current(),
        slots: Mutex::default(),
        launches: AtomicU64::new(incarnation()),
        cohorts: Mutex::default(),
    });
    Arc::new(move |epoch, rank, sink| {
        let (plans, queue) = mpsc::channel(STEPS_QUEUED_MAX);
        let ranks = Arc::clone(&ranks);
        let runtime = ranks.runtime.clone();
        let task = runtime.spawn(async move {
            if let Err(loss) = ranks.run(epoch, rank, queue, &sink).await {
                sink(RankEvent::Lost(loss));
            }
        });
        let ended = Box::pin(async move { drop(task.await) });
        Ok(StartedRank { port: RankPort::Remote(plans), ended })
    })
}

// === impl RemoteRanks ===

impl RemoteRanks {
    /// One epoch of a rank: ends well when its port is dropped.
    async fn run(
        &self,
        epoch: Epoch,
        rank: Rank,
        mut plans: mpsc::Receiver<StepPlan>,
        sink: &RankSink,
    ) -> Result<(), Loss> {
        let cohort = self.cohort(epoch, rank.replica).map_err(Loss::no_seat)?;
        let slot = Arc::clone(lock(&self.slots).entry(rank).or_default());
        let mut slot = slot.lock().await;
        let process = tokio::select! {
            launched = self.occupy(&cohort, rank, &mut slot) => launched?,
            // No plan comes before the rank is ready, so this is the end of its port.
            _ = plans.recv() => return Ok(()),
        };
        sink(RankEvent::Seated(process.whereabouts.clone()));
        let ended = tokio::select! {
            ended = self.play(&cohort, rank, process, plans, sink) => ended,
            why = process.ended() => Err(why),
        };
        // What the connection says of a process that died is of no use to a person.
        match ended {
            Err(_) if !process.lives() => Err(process.ended().await),
            ended => ended,
        }
    }

    /// The ranks that start together; the first of them to come makes it.
    fn cohort(&self, epoch: Epoch, replica: ReplicaId) -> Result<Arc<Cohort>, String> {
        let mut cohorts = lock(&self.cohorts);
        if let Some(cohort) = cohorts.get(&replica).filter(|cohort| cohort.epoch == epoch) {
            return Ok(Arc::clone(cohort));
        }
        let mut secret = [0; 32];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| "the system gives no randomness".to_owned())?;
        let name = format!("playhouse-{}-{replica}", std::process::id());
        let meeting = Meeting::new(name, self.config.layout, secret);
        let cohort = Arc::new(Cohort { epoch, meeting, seats: OnceCell::new() });
        cohorts.insert(replica, Arc::clone(&cohort));
        Ok(cohort)
    }

    /// Makes sure that a live process sits where the rank belongs now.
    async fn occupy<'a>(
        &self,
        cohort: &Cohort,
        rank: Rank,
        slot: &'a mut Option<Process>,
    ) -> Result<&'a Process, Loss> {
        let Rank { replica, stage, tensor } = rank;
        let place = || self.control.nodes().place(replica, &self.config.map, DEVICES);
        let seats = cohort.seats.get_or_try_init(place).await.map_err(Loss::no_seat)?;
        let seat = &seats[stage * self.config.layout.tensor + tensor];
        if slot.as_ref().is_some_and(|process| !process.lives() || process.seat != *seat) {
            *slot = None;
        }
        match slot {
            Some(process) => Ok(process),
            empty => {
                // An older process of the rank may still look for its head, and must not be taken for
                // the new one.
                let start = self.launches.fetch_add(1, Ordering::Relaxed);
                let name = format!("r{}-s{stage}-t{tensor}-{start:x}", replica.0);
                Ok(empty.insert(self.control.launch(&name, seat.clone()).await?))
            }
        }
    }

    /// Readies the process for the epoch, then passes plans and outcomes on until the port ends.
    async fn play(
        &self,
        cohort: &Cohort,
        rank: Rank,
        process: &Process,
        mut plans: mpsc::Receiver<StepPlan>,
        sink: &RankSink,
    ) -> Result<(), Loss> {
        let started = tokio::select! {
            started = self.ready(cohort, rank, process, sink) => started.map_err(Loss::outside)?,
            _ = plans.recv() => return Ok(()),
        };
        sink(RankEvent::Ready);
        let passing = pass_on(started, plans, Arc::clone(sink));
        let passed = self.control.runtime().spawn(passing).await;
        passed.unwrap_or_else(|why| Err(Loss::outside(why.to_string())))
    }

    async fn ready(
        &self,
        cohort: &Cohort,
        rank: Rank,
        process: &Process,
        sink: &RankSink,
    ) -> Result<Started, String> {
        let index = rank.stage * self.config.layout.tensor + rank.tensor;
        let load = Load { threads: process.seat.threads, ..self.config.loads[index].clone() };
        let control = process.peer.open(ShardCommand::Load(load), OPEN).await.map_err(opening)?;
        let Stream { mut sender, mut receiver } = control;
        let Loaded { tensor, pipeline } = loop {
            match receiver.next().await.map_err(receiving)? {
                Some(ShardEvent::Progress { bytes, of }) => sink(RankEvent::Loading { bytes, of }),
                Some(ShardEvent::Loaded(loaded)) => break loaded,
                other => return Err(refusal(other)),
            }
        };
        let (tensor, pipeline) = cohort.meeting.attend(rank, [tensor, pipeline]).await;
        let RemoteConfig { kv_blocks, max_num_seqs, .. } = self.config;
        let join = Join { epoch: cohort.epoch, tensor, pipeline, kv_blocks, max_num_seqs };
        sender.send(&ShardCommand::Join(join)).await.map_err(sending)?;
        match receiver.next().await.map_err(receiving)? {
            Some(ShardEvent::Ready) => {}
            other => return Err(refusal(other)),
        }
        let attach = StepCommand::Attach { epoch: cohort.epoch };
        let steps = process.peer.open(attach, OPEN).await.map_err(opening)?;
        Ok(Started { _control: Stream { sender, receiver }, steps })
    }
}

/// Plans to a rank, what comes of them back; ends well with the plans.
async fn pass_on(
    started: Started,
    mut plans: mpsc::Receiver<StepPlan>,
    sink: RankSink,
) -> Result<(), Loss> {
    let Started { _control, steps: Stream { mut sender, mut receiver } } = started;
    loop {
        tokio::select! {
            plan = plans.recv() => match plan {
                Some(plan) => {
                    let sent = sender.send(&StepCommand::Plan(plan)).await;
                    sent.map_err(|why| Loss::outside(sending(why)))?;
                }
                None => return Ok(()),
            },
            event = receiver.next() => {
                let event = event.map_err(|why| Loss::outside(receiving(why)))?;
                match event {
                    Some(StepEvent::Outcome(outcome)) => sink(RankEvent::Step(outcome)),
                    Some(StepEvent::Done { step, .. }) => sink(RankEvent::Followed(step)),
                    Some(StepEvent::Exited { reason, of_step, .. }) => {
                        let cause = if of_step { LossCause::Step } else { LossCause::Outside };
                        return Err(Loss { reason, cause });
                    }
                    None => return Err(Loss::outside("the rank ended its step stream")),
                }
            }
        }
    }
}

fn refusal(event: Option<ShardEvent>) -> String {
    match event {
        Some(ShardEvent::Failed(why)) => why,
        Some(event) => format!("the rank said {event:?} out of turn"),
        None => "the rank ended its control stream".to_owned(),
    }
}

fn opening(error: OpenError) -> String {
    format!("opening a stream to the rank: {error}")
}

fn sending(error: SendError) -> String {
    format!("the rank is out of reach: {error}")
}

fn receiving(error: RecvError) -> String {
    format!("the rank is out of reach: {error}")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
