//! Remote ranks: each is a process, on this machine or on a node.
//!
//! A process outlives its epochs. When another rank of its replica dies it keeps its weights, and
//! only joins the next epoch's groups; so a replica is back as soon as the dead rank has its
//! weights again.
//!
//! - **RM-1** of the epochs of a replica only the latest begins anything.
//! - **RM-2** a rank has one process at a time: the next starts when the one before has ended, or its
//!   node is lost. A process that does not end although it was killed, because the kernel cannot let go
//!   of it, is waited for only as long as [`END`]. The devices of a replica are free when all of its
//!   processes have ended (**A14**).

mod handle;
mod rendezvous;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use playhouse_engine::STEPS_QUEUED_MAX;
use playhouse_layout::{RankId, RankMap};
use playhouse_link::{OpenError, RecvError, SendError, Stream};
use playhouse_types::{BlockSize, Epoch, ReplicaId, StepPlan};
use playhouse_wire::{Join, Load, Loaded, ShardCommand, ShardEvent, StepCommand, StepEvent};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OnceCell, mpsc};
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::warn;

use self::handle::RemoteHandle;
use self::rendezvous::{Attendance, Rendezvous};
use crate::control::{ControlPlane, Process};
use crate::memory::MemoryNeeds;
use crate::nodes::{Assignment, Lease};
use crate::rank::{
    Loss, LossCause, RankEvent, RankPort, RankSink, RankStarter, StartedRank, process_name,
};
use crate::weights::ExpectedWeights;

/// How long a process may take to end once it was killed. The system has to take its memory back, which
/// takes seconds if there is much of it.
const END: Duration = Duration::from_secs(3);

/// How long a stream may take to open. A process that lives opens it at once.
const OPEN: Duration = Duration::from_secs(5);

/// How long a rank may be silent while it loads. It reports every part that it has read, so a rank that
/// is silent for longer hangs, as on a file system that does not answer.
const LOADING: Duration = Duration::from_secs(600);

/// The configuration of a replica whose ranks are processes.
#[derive(Clone)]
pub struct RemoteConfig {
    /// The groups of the ranks.
    pub map: Arc<RankMap>,
    /// The part that each rank loads, stage by stage. Their assigned devices say with how many threads.
    pub loads: Vec<Load>,
    /// The memory that each rank needs of its device, and the bounds of its KV cache.
    pub memory: MemoryNeeds,
    /// The checkpoint of which each rank loads a part.
    pub weights: ExpectedWeights,
    /// The number of tokens of a KV block.
    pub block_size: BlockSize,
    /// The number of slots in a batch.
    pub max_num_seqs: u32,
}

/// Starts ranks as processes.
struct RemoteRanks {
    config: RemoteConfig,
    control: ControlPlane,
    /// Drives the tasks that wait and start processes; the link's runtime passes plans on.
    runtime: Handle,
    slots: Mutex<HashMap<RankId, Slot>>,
    /// The group of the latest epoch.
    group: Mutex<Option<Arc<EpochGroup>>>,
    /// The lease of the devices, while there are slots.
    lease: Mutex<Option<Arc<Lease>>>,
    /// Processes that were given up and have not ended.
    ending: TaskTracker,
}

/// The process of a rank. One epoch at a time holds it.
type Slot = Arc<AsyncMutex<Option<Process>>>;

/// The ranks of a replica in one epoch.
struct EpochGroup {
    epoch: Epoch,
    rendezvous: Rendezvous,
    lease: Arc<Lease>,
    assignments: OnceCell<Vec<Assignment>>,
}

/// The reason why a rank does not go on.
enum Fall {
    /// The process of the rank is out of reach; [`Process::ended`] knows why.
    OutOfReach,
    /// The rank, or another part, has said why.
    Told(Loss),
}

/// The control stream of a rank in an epoch. Its end ends the engine.
type Control = Stream<ShardCommand, ShardEvent>;

/// A rank that takes plans.
struct Started {
    /// Ends the engine when it is dropped.
    _control: Control,
    steps: Stream<StepCommand, StepEvent>,
}

/// Returns a starter that starts each rank as a process.
#[must_use]
pub fn processes(config: RemoteConfig, control: ControlPlane) -> RankStarter {
    let ranks = Arc::new(RemoteRanks {
        config,
        control,
        runtime: Handle::current(),
        slots: Mutex::default(),
        group: Mutex::default(),
        lease: Mutex::default(),
        ending: TaskTracker::new(),
    });
    Arc::new(move |epoch, rank, sink| {
        let (plans, queue) = mpsc::channel(STEPS_QUEUED_MAX);
        let ranks = Arc::clone(&ranks);
        let runtime = ranks.runtime.clone();
        let hung = Arc::new(AtomicBool::new(false));
        let handle = RemoteHandle::new(Arc::clone(&ranks), rank, Arc::clone(&hung));
        let task = runtime.spawn(async move { ranks.run(epoch, rank, queue, &hung, &sink).await });
        let ended = Box::pin(async move { drop(task.await) });
        Ok(StartedRank { port: RankPort::Remote(plans), handle: Arc::new(handle), ended })
    })
}

// === impl RemoteRanks ===

impl RemoteRanks {
    /// Runs one epoch of a rank: ends with its port, or reports why the rank is lost. If the rank is
    /// `hung` by then, its process ends as well.
    async fn run(
        &self,
        epoch: Epoch,
        rank: RankId,
        plans: mpsc::Receiver<StepPlan>,
        hung: &AtomicBool,
        sink: &RankSink,
    ) {
        let group = match self.group(epoch, rank.replica) {
            Ok(group) => group,
            Err(why) => return sink(RankEvent::Lost(Loss::no_device(why))),
        };
        let slot = Arc::clone(self.slots.lock().entry(rank).or_default());
        let mut slot = slot.lock().await;
        let ended = self.run_in(&mut slot, &group, rank, plans, sink).await;
        let while_loading = matches!(&ended, Err(loss) if loss.cause == LossCause::Hang);
        // The process of a lost rank is given up before the loss is reported and another assignment is
        // sought: its node is in doubt from now on, until it answers.
        let gone = slot
            .take_if(|process| while_loading || hung.load(Ordering::Relaxed) || !process.lives());
        let gone = gone.map(|process| self.end(process));
        if let Err(loss) = ended {
            sink(RankEvent::Lost(loss));
        }
        if let Some(gone) = gone {
            gone.await;
        }
    }

    /// Ends a process, from now on. The returned future completes when the process has ended, or after
    /// [`END`] (**RM-2**).
    fn end(&self, process: Process) -> impl Future<Output = ()> + use<> {
        let (pid, lease) = (process.whereabouts.pid, self.lease.lock().clone());
        let gone = process.end(self.control.nodes());
        let gone = self.ending.spawn_on(
            async move {
                gone.await;
                // Until then the device stays taken.
                drop(lease);
            },
            &self.runtime,
        );
        async move {
            if timeout(END, gone).await.is_err() {
                warn!(
                    "process {pid} has not ended {END:?} after it was killed: another starts beside it"
                );
            }
        }
    }

    async fn run_in(
        &self,
        slot: &mut Option<Process>,
        group: &EpochGroup,
        rank: RankId,
        mut plans: mpsc::Receiver<StepPlan>,
        sink: &RankSink,
    ) -> Result<(), Loss> {
        let process = tokio::select! {
            // A rank that was given up takes no device.
            biased;
            // No plan comes before the rank is ready, so this is the end of its port.
            _ = plans.recv() => return Ok(()),
            launched = self.occupy(group, rank, slot, sink) => launched?,
        };
        sink(RankEvent::Placed(process.whereabouts.clone()));
        let nodes = self.control.nodes();
        let loaded = AtomicBool::new(false);
        let ended = tokio::select! {
            biased;
            ended = self.run_epoch(group, rank, process, &loaded, plans, sink) => ended,
            why = process.ended(nodes) => Err(Fall::Told(why)),
        };
        if ended.is_err() && !loaded.into_inner() {
            nodes.rank_loaded(&process.assignment.node, false);
        }
        match ended {
            Ok(()) => Ok(()),
            Err(Fall::Told(loss)) if process.lives() => Err(loss),
            // What the connection says of a process that died is of no use to a person.
            Err(_) => Err(process.ended(nodes).await),
        }
    }

    /// Gives up the process of a rank once its epoch is over, and with the last process the devices of
    /// the replica.
    async fn vacate(&self, rank: RankId) {
        let slot = self.slots.lock().get(&rank).map(Arc::clone);
        if let Some(slot) = slot {
            let mut slot = slot.lock().await;
            if let Some(process) = slot.take() {
                self.end(process).await;
            }
        }
        self.ending.close();
        self.ending.wait().await;
        self.control.disown(rank);
        let mut slots = self.slots.lock();
        slots.remove(&rank);
        if slots.is_empty() {
            self.group.lock().take();
            self.lease.lock().take();
        }
    }

    /// Returns the group of ranks that start together; the first rank that asks makes it (**RM-1**).
    fn group(&self, epoch: Epoch, replica: ReplicaId) -> Result<Arc<EpochGroup>, String> {
        let mut latest = self.group.lock();
        if let Some(group) = &*latest {
            if group.epoch == epoch {
                return Ok(Arc::clone(group));
            }
            if group.epoch > epoch {
                return Err(format!("{epoch} is over: {} has begun", group.epoch));
            }
        }
        let mut secret = [0; 32];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| "the system gives no randomness".to_owned())?;
        let name = format!("playhouse-{}-{replica}", std::process::id());
        let rendezvous = Rendezvous::new(name, Arc::clone(&self.config.map), secret);
        let mut lease = self.lease.lock();
        let lease = lease.get_or_insert_with(|| Arc::new(self.control.nodes().lease(replica)));
        let (lease, assignments) = (Arc::clone(lease), OnceCell::new());
        let group = Arc::new(EpochGroup { epoch, rendezvous, lease, assignments });
        *latest = Some(Arc::clone(&group));
        Ok(group)
    }

    /// Makes sure that a live process runs on the device that is assigned to the rank now.
    async fn occupy<'a>(
        &self,
        group: &EpochGroup,
        rank: RankId,
        slot: &'a mut Option<Process>,
        sink: &RankSink,
    ) -> Result<&'a Process, Loss> {
        if let Some(dead) = slot.take_if(|process| !process.lives()) {
            self.end(dead).await;
        }
        let RemoteConfig { map, memory, .. } = &self.config;
        // The epoch goes on however long that takes: nothing was lost.
        let waits = |why: &str| sink(RankEvent::Waits(why.to_owned()));
        let place = || group.lease.place(map, memory, waits);
        let assignments = group.assignments.get_or_init(place).await;
        let assignment = &assignments[rank.at()];
        if let Some(other) =
            slot.take_if(|process| !process.lives() || process.assignment != *assignment)
        {
            self.end(other).await;
        }
        match slot {
            Some(process) => Ok(process),
            empty => {
                // An older process of the rank may still look for its head, and must not be taken for
                // the new one.
                let start = self.control.next_launch();
                let process = match self.control.adopt(rank, assignment, group.epoch) {
                    Some(adopted) => adopted,
                    None => self.launch(&process_name(rank, start), assignment).await?,
                };
                Ok(empty.insert(process))
            }
        }
    }

    async fn launch(&self, name: &str, assignment: &Assignment) -> Result<Process, Loss> {
        let launched = self.control.launch(name, assignment.clone()).await;
        if launched.as_ref().is_err_and(|loss| loss.cause == LossCause::Outside) {
            self.control.nodes().rank_loaded(&assignment.node, false);
        }
        launched
    }

    /// Readies the process for the epoch, then passes plans and outcomes on until the port ends.
    async fn run_epoch(
        &self,
        group: &EpochGroup,
        rank: RankId,
        process: &Process,
        loaded: &AtomicBool,
        mut plans: mpsc::Receiver<StepPlan>,
        sink: &RankSink,
    ) -> Result<(), Fall> {
        let attendance = group.rendezvous.attend(rank);
        let ready = async {
            let (control, has) = self.load(&attendance, rank, process, sink).await?;
            loaded.store(true, Ordering::Relaxed);
            self.join(group, attendance, process, control, has, sink).await
        };
        let started = tokio::select! {
            biased;
            started = ready => started?,
            _ = plans.recv() => return Ok(()),
        };
        sink(RankEvent::Ready);
        let passing = pass_on(started, plans, Arc::clone(sink));
        let passing = self.control.runtime().spawn(passing);
        // The task ends with this epoch, also if the process does.
        let passed = AbortOnDropHandle::new(passing).await;
        passed.unwrap_or_else(|why| Err(Fall::outside(why.to_string())))
    }

    /// Has the process load the weights of the rank, unless it has them.
    async fn load(
        &self,
        attendance: &Attendance<'_>,
        rank: RankId,
        process: &Process,
        sink: &RankSink,
    ) -> Result<(Control, Loaded), Fall> {
        let load =
            Load { threads: process.assignment.threads, ..self.config.loads[rank.at()].clone() };
        let mut control = process.peer.open(ShardCommand::Load(load), OPEN).await?;
        let loaded = loop {
            let told = timeout(LOADING, control.receiver.next()).await;
            match told.map_err(|_| loading_hangs())?? {
                Some(ShardEvent::Progress { bytes, of }) => {
                    attendance.heard();
                    sink(RankEvent::Loading { bytes, of });
                }
                Some(ShardEvent::Loaded(loaded)) => break loaded,
                other => return Err(refusal(other)),
            }
        };
        let node = &process.assignment.node;
        self.config.weights.check(node, &loaded.checkpoint).map_err(Fall::outside)?;
        self.control.nodes().rank_loaded(node, true);
        Ok((control, loaded))
    }

    /// Lets the rank join the groups of the epoch once all ranks have loaded.
    async fn join(
        &self,
        group: &EpochGroup,
        attendance: Attendance<'_>,
        process: &Process,
        control: Control,
        loaded: Loaded,
        sink: &RankSink,
    ) -> Result<Started, Fall> {
        let Stream { mut sender, mut receiver } = control;
        let met = attendance.meet(loaded.members, LOADING).await;
        let groups = met.map_err(Fall::outside)?;
        let assignments = group.assignments.get().map(Vec::as_slice).unwrap_or_default();
        let kv_blocks = self.config.memory.kv_blocks(&self.control.nodes().memory_of(assignments));
        sink(RankEvent::Cache { kv_blocks });
        let RemoteConfig { block_size, max_num_seqs, .. } = self.config;
        let (epoch, block_tokens) = (group.epoch, block_size.get());
        let join = Join { epoch, groups, kv_blocks, block_tokens, max_num_seqs };
        sender.send(&ShardCommand::Join(join)).await?;
        match receiver.next().await? {
            Some(ShardEvent::Ready) => {}
            other => return Err(refusal(other)),
        }
        let attach = StepCommand::Attach { epoch: group.epoch };
        let steps = process.peer.open(attach, OPEN).await?;
        Ok(Started { _control: Stream { sender, receiver }, steps })
    }
}

/// Passes plans to a rank, and its outcomes back; ends well with the plans.
async fn pass_on(
    started: Started,
    mut plans: mpsc::Receiver<StepPlan>,
    sink: RankSink,
) -> Result<(), Fall> {
    let Started { _control, steps: Stream { mut sender, mut receiver } } = started;
    loop {
        tokio::select! {
            biased;
            plan = plans.recv() => match plan {
                Some(plan) => {
                    sender.send(&StepCommand::Plan(plan)).await?;
                }
                None => return Ok(()),
            },
            event = receiver.next() => {
                match event? {
                    Some(StepEvent::Outcome(outcome)) => sink(RankEvent::Step(outcome)),
                    Some(StepEvent::Done { step, .. }) => sink(RankEvent::Followed(step)),
                    Some(StepEvent::Exited { reason, of_step, .. }) => {
                        let cause = if of_step { LossCause::Step } else { LossCause::Outside };
                        return Err(Fall::Told(Loss { reason, cause }));
                    }
                    None => return Err(Fall::outside("the rank ended its step stream")),
                }
            }
        }
    }
}

fn loading_hangs() -> Fall {
    let reason = format!("hung: it said nothing for {LOADING:?} while loading");
    Fall::Told(Loss { reason, cause: LossCause::Hang })
}

fn refusal(event: Option<ShardEvent>) -> Fall {
    Fall::outside(match event {
        Some(ShardEvent::Failed(why)) => why,
        Some(event) => format!("the rank said {event:?} out of turn"),
        None => "the rank ended its control stream".to_owned(),
    })
}

// === impl Fall ===

impl Fall {
    fn outside(reason: impl Into<String>) -> Self {
        Self::Told(Loss::outside(reason))
    }
}

impl From<OpenError> for Fall {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Send(error) => error.into(),
            error => Self::outside(format!("opening a stream to the rank: {error}")),
        }
    }
}

impl From<SendError> for Fall {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Lost(_) => Self::OutOfReach,
            error => Self::outside(format!("telling the rank: {error}")),
        }
    }
}

impl From<RecvError> for Fall {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lost(_) => Self::OutOfReach,
            error => Self::outside(format!("hearing the rank: {error}")),
        }
    }
}
