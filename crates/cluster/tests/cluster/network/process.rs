//! The process of a rank, as far as the network sees it: a task that runs the real `run_rank`, with an
//! engine that says tokens from a script and fails as its fate will have it.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use playhouse_cluster::{
    Child, Loading, RankEngine, RankHost, RankPort, ReadProgress, Way, run_rank,
};
use playhouse_engine::{EngineEvent, STEPS_QUEUED_MAX};
use playhouse_layout::GroupKind;
use playhouse_link::{Identity, LinkConfig};
use playhouse_types::{CheckpointDigest, Epoch, StepPlan};
use playhouse_wire::{Exit, ExitStatus, Group, Join, Load, Loaded, Member, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::machine::Machine;
use crate::caller::count;
use crate::engines::scripted::run;

const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;

/// The engine of a rank.
struct Script {
    id: PeerId,
    machine: Arc<Machine>,
    /// Times it was told to load.
    loads: AtomicU64,
    /// Whether the rank reports outcomes, by its last load.
    samples: AtomicBool,
    /// Ends the process at once.
    death: mpsc::Sender<ExitStatus>,
}

/// An engine of an epoch.
struct Engine {
    script: Arc<Script>,
    epoch: Epoch,
    /// It has the outcomes.
    samples: bool,
    queue: mpsc::Receiver<StepPlan>,
    aborted: watch::Receiver<bool>,
}

/// Starts a process on a machine.
pub(crate) fn start(machine: &Arc<Machine>, identity: &[u8]) -> io::Result<Child> {
    let identity = Identity::from_bytes(identity).map_err(io::Error::other)?;
    let (id, world) = (identity.peer().clone(), Arc::clone(&machine.world));
    let incarnation = world.number();
    let pid = u32::try_from(incarnation).expect("a short life");
    let bound = world.network.endpoint(&id, incarnation, LinkConfig::default());
    let way = Way::over(bound, world.head.into());
    machine.connect(&id);
    let (ended, exited) = watch::channel(None);
    let (child, dropped) = Child::new(pid, exited);
    let (death, died) = mpsc::channel(1);
    let machine = Arc::clone(machine);
    let (loads, samples) = Default::default();
    let script = Script { id, machine: Arc::clone(&machine), loads, samples, death };
    tokio::spawn(async move {
        world.live.fetch_add(1, Ordering::Relaxed);
        let status = live(way, script, dropped, died).await;
        world.live.fetch_sub(1, Ordering::Relaxed);
        ended.send_replace(Some(Exit { pid, status, reason: String::new() }));
    });
    Ok(child)
}

/// Runs the process until it ends by itself, is killed, or its machine goes down.
async fn live(
    way: Way,
    script: Script,
    dropped: oneshot::Receiver<()>,
    mut died: mpsc::Receiver<ExitStatus>,
) -> ExitStatus {
    let (id, machine) = (script.id.clone(), Arc::clone(&script.machine));
    let mut served = tokio::spawn(run_rank(way, Arc::new(script)));
    let status = tokio::select! {
        biased;
        _ = dropped => ExitStatus::Signal(SIGKILL),
        () = machine.down() => ExitStatus::Signal(SIGKILL),
        Some(status) = died.recv() => status,
        _ = &mut served => ExitStatus::Code(1),
    };
    served.abort();
    machine.world.network.crash(&id);
    status
}

// === impl Script ===

impl Script {
    async fn die(&self, signal: i32) {
        let _ = self.death.send(ExitStatus::Signal(signal)).await;
        pending::<()>().await;
    }

    fn member(&self, group: GroupKind) -> Member {
        let Self { id, loads, machine, .. } = self;
        let address = format!("{id} {} {}", group.label(), loads.load(Ordering::Relaxed));
        Member { machine: machine.name.clone(), address }
    }

    /// A group of another load, or of another epoch, would compute nonsense or wait forever.
    fn check(&self, epoch: Epoch, which: GroupKind, group: &Group) {
        let Group { name, rank, members, .. } = group;
        let world = &self.machine.world;
        if members[*rank as usize] != self.member(which) {
            world.accuse(format!("G7: {} is not what it said it was in {name}", self.id));
        }
        world.meets((name.clone(), epoch), members);
    }
}

impl RankHost for Script {
    fn load(self: Arc<Self>, load: Load, progress: ReadProgress) -> Loading {
        Box::pin(async move {
            let fate = &self.machine.world.fate;
            sleep(fate.millis(1..40)).await;
            progress(1, 2);
            if fate.strikes(150) {
                // A file system that does not answer.
                pending::<()>().await;
            }
            if fate.strikes(40) {
                return Err("it cannot load".to_owned());
            }
            if fate.strikes(60) {
                self.die(SIGKILL).await;
            }
            self.loads.fetch_add(1, Ordering::Relaxed);
            let samples = load.share.is_last() && load.share.attention.at == 0;
            self.samples.store(samples, Ordering::Relaxed);
            let members = load.groups.iter().map(|kind| (*kind, self.member(*kind)));
            let members = members.collect();
            Ok(Loaded { members, checkpoint: CheckpointDigest::default() })
        })
    }

    fn start(&self, join: Join, sink: Box<dyn Fn(EngineEvent) + Send>) -> io::Result<RankEngine> {
        let Join { epoch, groups, .. } = join;
        groups.iter().for_each(|(kind, group)| self.check(epoch, *kind, group));
        let samples = self.samples.load(Ordering::Relaxed);
        let (plans, queue) = mpsc::channel(STEPS_QUEUED_MAX);
        let (abort, aborted) = watch::channel(false);
        let script = Arc::new(Self {
            id: self.id.clone(),
            machine: Arc::clone(&self.machine),
            loads: AtomicU64::new(0),
            samples: AtomicBool::new(samples),
            death: self.death.clone(),
        });
        let engine = Engine { script, epoch, samples, queue, aborted };
        let task = tokio::spawn(engine.play(sink));
        Ok(RankEngine {
            port: RankPort::Remote(plans),
            ended: Box::pin(async move { drop(task.await) }),
            abort: Box::new(move || {
                abort.send_replace(true);
            }),
        })
    }
}

// === impl Engine ===

impl Engine {
    async fn play(mut self, sink: Box<dyn Fn(EngineEvent) + Send>) {
        let Self { script, epoch, samples, queue, aborted } = &mut self;
        let (epoch, fate) = (*epoch, &script.machine.world.fate);
        sleep(fate.millis(1..10)).await;
        sink(EngineEvent::Ready { epoch });
        let mut lengths = HashMap::new();
        loop {
            let plan = tokio::select! {
                biased;
                _ = aborted.wait_for(|aborted| *aborted) => return,
                plan = queue.recv() => plan,
            };
            let Some(plan) = plan else { return };
            sleep(fate.millis(1..6)).await;
            if fate.hangs() {
                match fate.below(3) {
                    // Until its groups are aborted ...
                    0 => return drop(aborted.wait_for(|aborted| *aborted).await),
                    // ... or whatever is done about it ...
                    1 => pending().await,
                    // ... or all of the process.
                    _ => {
                        let world = &script.machine.world;
                        world.suspend(vec![script.id.clone()], world.draw_wake());
                    }
                }
            }
            match fate.below(3) {
                _ if !fate.strikes(300) => {}
                0 => script.die(SIGSEGV).await,
                1 => script.die(SIGKILL).await,
                _ => {
                    let (reason, of_step) = ("it failed".to_owned(), fate.below(2) == 0);
                    return sink(EngineEvent::Exited { epoch, reason, of_step });
                }
            }
            let outcome = run(count, &mut lengths, plan);
            let step = outcome.step;
            sink(match samples {
                true => EngineEvent::Step(outcome),
                false => EngineEvent::Followed { epoch, step },
            });
        }
    }
}
