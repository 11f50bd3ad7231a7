//! The reunion: finds processes that an earlier head has left running, and takes them over or ends them.
//!
//! - **RE-1** a process is taken over only if its node offers it and it has come by itself, for the
//!   rank and on the device that it was started for, and into a higher epoch than it was in (**G7**).
//! - **RE-2** a process that is not taken over ends: at once if its rank is not wanted, after [`CLAIM`]
//!   if no replica has claimed it. Its node kills it, so that it need not answer.
//! - **RE-3** a process that comes after the reunion is not taken over. So a process that this head
//!   has started itself, and given up, is never taken over.
//! - **RE-4** the reunion ends when every replica that is wanted is whole, or when all known peers have
//!   come: the nodes that had ranks are back, and so is every process that they still run. Otherwise it
//!   ends when no peer has come for [`QUIET`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use playhouse_layout::RankId;
use playhouse_types::{Epoch, ParallelSpec, ReplicaId};
use playhouse_wire::{Exit, Running};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::info;

use super::{ControlPlane, Hold, Inner, Process, Side};
use crate::ledger::Drained;
use crate::nodes::Assignment;
use crate::operation::{Desired, ranks_of};
use crate::rank::rank_of_process;

/// How long to wait for the next node or process: they look for the head every two seconds, and one that
/// began to look just before the head's start hears of it a second later.
const QUIET: Duration = Duration::from_secs(5);

/// How long a process may wait for its rank to start, which may wait for devices.
const CLAIM: Duration = Duration::from_secs(60);

/// The state of a reunion: the nodes and processes that are still there, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Reunion {
    table: Mutex<ReunionTable>,
    /// Notifies that a node or process has come.
    came: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct ReunionTable {
    /// Whether a head waits for its peers to come back.
    waits: bool,
    over: bool,
    /// Nodes that have come.
    back: HashSet<String>,
    /// The processes that nodes say they run, by name.
    offered: HashMap<String, Offered>,
    /// Processes that have come, by name.
    arrived: HashMap<String, Side>,
    /// The processes that may be taken over.
    found: HashMap<RankId, Process>,
}

/// A process of a node. Dropping it ends the process.
#[derive(Debug)]
struct Offered {
    rank: RankId,
    assignment: Assignment,
    pid: u32,
    exited: watch::Receiver<Option<Exit>>,
    hold: Hold,
}

/// The last epoch of each replica.
type Epochs = BTreeMap<ReplicaId, Epoch>;

/// The devices of the ranks of each replica, stage by stage, as far as the ranks are there.
type Assignments = BTreeMap<ReplicaId, Vec<Option<Assignment>>>;

// === impl ControlPlane ===

impl ControlPlane {
    /// Waits for the processes that an earlier head has left of the wanted replicas, on `hosts` if that
    /// is known, until all of them have come or no more come (**RE-4**), and remembers the devices of
    /// their ranks. Returns the last epoch of each replica of which a process is there.
    pub(crate) async fn reunite(
        &self,
        desired: &Desired,
        drained: &Drained,
        hosts: Option<&BTreeSet<String>>,
    ) -> Epochs {
        let reunion = &self.inner.reunion;
        let serving = (desired.replicas as usize).saturating_sub(drained.replicas.len());
        if self.inner.admits_nodes {
            info!("looking for what an earlier head has left of {serving} replicas");
            reunion.table.lock().waits = true;
            let mut came = reunion.came.subscribe();
            let over = || {
                let table = reunion.table.lock();
                table.whole(&desired.layout) >= serving || hosts.is_some_and(|it| table.has_all(it))
            };
            while !over() {
                if timeout(QUIET, came.changed()).await.is_err() {
                    break;
                }
            }
        }
        let (epochs, assignments) = reunion.table.lock().end(desired, drained);
        for (replica, assignments) in assignments {
            self.nodes().remember(replica, assignments);
        }
        let inner = Arc::downgrade(&self.inner);
        self.inner.tasks.spawn(async move {
            sleep(CLAIM).await;
            if let Some(inner) = inner.upgrade() {
                inner.reunion.table.lock().found.clear();
            }
        });
        epochs
    }

    /// Returns whether the head waits for processes of an earlier head.
    pub(crate) fn looks_back(&self) -> bool {
        let table = self.inner.reunion.table.lock();
        table.waits && !table.over
    }

    /// Ends every process that an earlier head has left, because the wanted deployment was not written
    /// down.
    pub(crate) fn start_alone(&self) {
        self.inner.reunion.table.lock().end(&Desired::default(), &Drained::default());
    }

    /// Returns the process that an earlier head has left for a rank on its assigned device, if it can
    /// begin this epoch (**RE-1**). Other processes on that device, or of that rank, end.
    pub(crate) fn adopt(
        &self,
        rank: RankId,
        assignment: &Assignment,
        epoch: Epoch,
    ) -> Option<Process> {
        let mut table = self.inner.reunion.table.lock();
        let process = table.found.remove(&rank);
        table.found.retain(|_, other| other.assignment != *assignment);
        drop(table);
        let fits =
            |it: &Process| it.assignment == *assignment && it.peer.epoch() < epoch && it.lives();
        let process = process.filter(fits)?;
        info!("process {} on {} is taken over", process.whereabouts.pid, assignment.node);
        Some(process)
    }

    /// Ends what an earlier head has left for a rank that shall not run.
    pub(crate) fn disown(&self, rank: RankId) {
        self.inner.reunion.table.lock().found.remove(&rank);
    }
}

// === impl Inner ===

impl Inner {
    /// Takes in processes that a node runs and this head does not hold. They end unless a reunion is
    /// under way.
    pub(super) fn offered(self: &Arc<Self>, running: Vec<Running>, node: &str) {
        let offer = |Running { name, device, pid }| {
            let hold = Hold::There { pid, node: node.to_owned(), control: Arc::downgrade(self) };
            let rank = rank_of_process(&name);
            let (rank, assignment) = rank.zip(self.nodes.assignment(node, device))?;
            let exited = self.nodes.watch_process(node, pid);
            Some((name, Offered { rank, assignment, pid, exited, hold }))
        };
        let offered: Vec<_> = running.into_iter().filter_map(offer).collect();
        let mut table = self.reunion.table.lock();
        if !table.over {
            table.back.insert(node.to_owned());
            table.offered.extend(offered);
            self.reunion.came.send_replace(());
        }
    }
}

// === impl Reunion ===

impl Reunion {
    /// Returns whether a rank process that this head has not started may come.
    pub(super) fn is_open(&self) -> bool {
        !self.table.lock().over
    }

    /// Takes in a rank process that has come. It is sent away if the reunion has ended meanwhile.
    pub(super) fn arrived(&self, side: Side) {
        let mut table = self.table.lock();
        if !table.over {
            table.arrived.insert(side.0.id().name().to_owned(), side);
            self.came.send_replace(());
        }
    }
}

// === impl ReunionTable ===

impl ReunionTable {
    /// Returns the number of replicas of which every rank is there.
    fn whole(&self, layout: &ParallelSpec) -> usize {
        let there = |(name, it): (&String, &Offered)| {
            (self.arrived.contains_key(name) && it.rank.at() < ranks_of(layout)).then_some(it.rank)
        };
        let there: HashSet<RankId> = self.offered.iter().filter_map(there).collect();
        let ranks = count(there.into_iter());
        ranks.values().filter(|ranks| **ranks == ranks_of(layout)).count()
    }

    /// Returns whether these nodes are back with every process that they run, and no process came
    /// without its node.
    fn has_all(&self, hosts: &BTreeSet<String>) -> bool {
        let Self { back, offered, arrived, .. } = self;
        hosts.iter().all(|node| back.contains(node))
            && offered.keys().all(|name| arrived.contains_key(name))
            && arrived.keys().all(|name| offered.contains_key(name))
    }

    /// Ends the reunion, and keeps the processes of wanted replicas to be taken over. Returns the last
    /// epoch of each such replica, and the devices of its ranks.
    fn end(&mut self, desired: &Desired, drained: &Drained) -> (Epochs, Assignments) {
        self.over = true;
        let mut arrived = std::mem::take(&mut self.arrived);
        for (name, offered) in self.offered.drain() {
            let Some((peer, inbox)) = arrived.remove(&name) else { continue };
            let Offered { rank, assignment, pid, exited, hold } = offered;
            if rank.at() >= ranks_of(&desired.layout) || drained.replicas.contains(&rank.replica) {
                continue;
            }
            let whereabouts = assignment.whereabouts(pid);
            let process =
                Process { peer, whereabouts, assignment, exited, _hold: hold, _inbox: inbox };
            // Of two processes of one rank, the earlier head had given up the one with the lower epoch.
            match self.found.entry(rank) {
                Entry::Occupied(other) if other.get().peer.epoch() > process.peer.epoch() => {}
                Entry::Occupied(mut other) => drop(other.insert(process)),
                Entry::Vacant(nobody) => drop(nobody.insert(process)),
            }
        }
        let ranks = count(self.found.keys().copied());
        let mut replicas: Vec<ReplicaId> = ranks.keys().copied().collect();
        replicas.sort_by_key(|id| (std::cmp::Reverse(ranks[id]), *id));
        replicas.truncate((desired.replicas as usize).saturating_sub(drained.replicas.len()));
        self.found.retain(|rank, _| replicas.contains(&rank.replica));
        let (mut epochs, mut assignments) = (Epochs::new(), Assignments::new());
        for (rank, process) in &self.found {
            let epoch = epochs.entry(rank.replica).or_default();
            *epoch = process.peer.epoch().max(*epoch);
            let nobody = || vec![None; ranks_of(&desired.layout)];
            let assignments = assignments.entry(rank.replica).or_insert_with(nobody);
            assignments[rank.at()] = Some(process.assignment.clone());
        }
        (epochs, assignments)
    }
}

/// Counts the ranks of each replica.
fn count(ranks: impl Iterator<Item = RankId>) -> HashMap<ReplicaId, usize> {
    let mut count = HashMap::new();
    ranks.for_each(|rank| *count.entry(rank.replica).or_default() += 1);
    count
}
