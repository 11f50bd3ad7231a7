//! The nodes: the machines that ranks can run on, what they offer, and which ranks are on them.
//!
//! - **ND-1** no rank is placed on a node that was told to end a process and has not answered: its
//!   device may not be free, and the node may be gone. The node answers within a round trip, or is lost.
//! - **ND-2** nothing waits for a node longer than the node is connected.
//! - **ND-3** a device belongs to one [`Lease`] from its placement until that lease is dropped, which is
//!   after the last process on it has ended. What an older lease of a replica does concerns that lease
//!   alone (**A13**).
//! - **ND-4** what a node tells of its processes takes no more memory than the head has asked for.
//! - **ND-5** no offer displaces a node that is connected and answers: another process of its name, such
//!   as one with a copy of its folder, is refused before its offer is read (**LK-9**).
//! - **ND-6** a node on which the last rank failed to load its weights gets ranks only where no other
//!   node will do, until one of its ranks has loaded, or the node joins again.

mod connection;
mod device;
mod entry;
mod inventory;
mod lease;
mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use playhouse_link::Peer;
use playhouse_types::ReplicaId;
use playhouse_wire::Exit;
use tokio::sync::watch;
use tracing::warn;

pub use self::device::Device;

pub(crate) use self::device::Assignment;
pub(crate) use self::lease::{Lease, Starting};

use self::entry::{NodeEntry, left};
use self::leases::{LeaseId, Leases};

use crate::awaited::MissingDevices;
use crate::head::HEAD;
use crate::status::{DeviceStatus, NodeStatus};

/// The machines that the head knows. The head itself comes first if it has devices. Clones share their
/// state.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    shared: Arc<SharedNodes>,
}

#[derive(Debug)]
struct SharedNodes {
    inventory: Mutex<DeviceInventory>,
    /// Notifies that a node has come, has gone or has answered, or that devices were taken or are free.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct DeviceInventory {
    here: Vec<Device>,
    nodes: BTreeMap<String, NodeEntry>,
    /// The devices on which ranks are.
    leases: Leases<Vec<Assignment>>,
    /// The devices on which the ranks of a replica were for an earlier head, until there is a lease for
    /// the replica.
    remembered: BTreeMap<ReplicaId, Vec<Assignment>>,
    /// Nodes that get no more ranks.
    cordoned: BTreeSet<String>,
    /// Nodes that are refused although they have a certificate.
    removed: BTreeSet<String>,
    /// Nodes on which the last rank failed to load its weights.
    failing: BTreeSet<String>,
    /// Nodes that were cut off and have not joined again: nothing waits for them.
    cut_off: BTreeSet<String>,
    /// The leases whose ranks could not be placed when that was tried last.
    unplaced: BTreeMap<LeaseId, Unplaced>,
}

/// The ranks of a lease that have no devices.
#[derive(Debug)]
struct Unplaced {
    ranks: usize,
    reason: String,
}

/// Devices with their threads, by node.
type Free = Vec<(String, Vec<(u32, u32)>)>;

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(here: Vec<Device>) -> Self {
        let (nodes, leases, remembered) = Default::default();
        let (cordoned, removed, failing, cut_off, unplaced) = Default::default();
        let inventory = DeviceInventory {
            here,
            nodes,
            leases,
            remembered,
            cordoned,
            removed,
            failing,
            cut_off,
            unplaced,
        };
        let shared =
            SharedNodes { inventory: Mutex::new(inventory), changed: watch::Sender::new(()) };
        Self { shared: Arc::new(shared) }
    }

    fn inventory(&self) -> MutexGuard<'_, DeviceInventory> {
        self.shared.inventory.lock()
    }

    /// Returns the connection to a node; `None` for the head itself.
    pub(crate) fn peer(&self, node: &str) -> Result<Option<Peer>, String> {
        if node == HEAD {
            return Ok(None);
        }
        let inventory = self.inventory();
        let peer = inventory.nodes.get(node).and_then(NodeEntry::live).cloned();
        peer.map(Some).ok_or_else(|| format!("node {node} is not connected"))
    }

    /// Waits until a node has left, and everything that depends on it can see that. The head itself
    /// never leaves.
    pub(crate) async fn until_lost(&self, node: &str) {
        let is_here = || {
            let inventory = self.inventory();
            node == HEAD || inventory.nodes.get(node).is_some_and(|entry| entry.peer.is_some())
        };
        let mut changed = self.shared.changed.subscribe();
        while is_here() {
            // The sender is ours.
            drop(changed.changed().await);
        }
    }

    /// Returns the connection to a node that is to end a process, if the node is connected. No rank is
    /// placed there until the node [has answered](Self::answered): a machine that is gone takes its
    /// ranks along, and the loss of a rank may be seen before that of the machine.
    pub(crate) fn ask_to_end(&self, node: &str, pid: u32) -> Option<Peer> {
        let mut inventory = self.inventory();
        let entry = inventory.nodes.get_mut(node)?;
        let peer = entry.live()?.clone();
        entry.ending.insert(pid);
        Some(peer)
    }

    /// Records that a node has ended a process, or will not.
    pub(crate) fn answered(&self, node: &str, pid: u32) {
        if let Some(entry) = self.inventory().nodes.get_mut(node) {
            entry.ending.remove(&pid);
        }
        self.shared.changed.send_replace(());
    }

    /// Returns whether ranks are assigned to this node, connected or not.
    pub(crate) fn waits_for(&self, node: &str) -> bool {
        let inventory = self.inventory();
        inventory.devices_in_use(node) > 0 && !inventory.cut_off.contains(node)
    }

    /// Returns a receiver that becomes `Some` when the node says that the process has ended.
    pub(crate) fn watch_process(&self, node: &str, pid: u32) -> watch::Receiver<Option<Exit>> {
        let mut inventory = self.inventory();
        let Some(entry) = inventory.nodes.get_mut(node) else {
            return watch::channel(Some(left(pid))).1;
        };
        if entry.starting == 0 {
            entry.processes.retain(|other, exit| *other == pid || exit.receiver_count() > 0);
        }
        entry.processes.entry(pid).or_default().subscribe()
    }

    /// Returns the assignment on a device of a node that is known.
    pub(crate) fn assignment(&self, node: &str, device: u32) -> Option<Assignment> {
        let inventory = self.inventory();
        let Device { threads, .. } = inventory.nodes.get(node)?.devices.get(device as usize)?;
        Some(Assignment { node: node.to_owned(), device, threads: *threads })
    }

    /// Remembers the devices on which the ranks of a replica were, stage by stage, to place them there
    /// again as far as that is possible; `None` for a rank whose device is not known.
    pub(crate) fn remember(&self, replica: ReplicaId, assignments: Vec<Option<Assignment>>) {
        let nowhere = || Assignment { node: String::new(), device: 0, threads: 0 };
        let assignments =
            assignments.into_iter().map(|assignment| assignment.unwrap_or_else(nowhere));
        self.inventory().remembered.insert(replica, assignments.collect());
    }

    /// Begins a lease for a start of a replica, without devices yet. The remembered devices are
    /// preferred.
    pub(crate) fn lease(&self, replica: ReplicaId) -> Lease {
        let mut inventory = self.inventory();
        let assignments = inventory.remembered.remove(&replica).unwrap_or_default();
        let id = inventory.leases.add(replica, assignments);
        drop(inventory);
        Lease { nodes: self.clone(), id }
    }

    /// Records whether a rank on this node has loaded its weights, or failed to (**ND-6**).
    pub(crate) fn rank_loaded(&self, node: &str, loaded: bool) {
        let mut inventory = self.inventory();
        if loaded {
            inventory.failing.remove(node);
        } else if inventory.failing.insert(node.to_owned()) {
            warn!(
                "a rank on node {node} failed to load: other nodes are preferred until one loads"
            );
        }
    }

    /// Records that a node is told to start a process: until the call is over, the node may tell of the
    /// end of a process that is not known yet (**ND-4**).
    pub(crate) fn starts_process(&self, node: &str) -> Starting {
        if let Some(entry) = self.inventory().nodes.get_mut(node) {
            entry.starting += 1;
        }
        Starting { nodes: self.clone(), node: node.to_owned() }
    }

    /// Returns the bytes of memory of the assigned devices.
    pub(crate) fn memory_of(&self, assignments: &[Assignment]) -> Vec<u64> {
        let inventory = self.inventory();
        inventory.memories(assignments)
    }

    /// Returns the nodes with ranks of a replica, once for each rank.
    pub(crate) fn of_replica(&self, replica: ReplicaId) -> Vec<String> {
        let inventory = self.inventory();
        let remembered = inventory.remembered.get(&replica).into_iter().flatten();
        let assignments = inventory.leases.of(replica).flatten().chain(remembered);
        assignments.map(|assignment| assignment.node.clone()).collect()
    }

    /// Waits until the nodes with ranks are others than these, and returns them. The head's own machine
    /// is not among them.
    pub(crate) async fn hosts(&self, than: Option<&BTreeSet<String>>) -> BTreeSet<String> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let hosts = self.inventory().hosts();
            if Some(&hosts) != than {
                return hosts;
            }
            // The sender is ours.
            drop(changed.changed().await);
        }
    }

    /// Returns, for every known node, the number of devices that new ranks may get.
    pub(crate) fn free_devices(&self) -> Vec<(String, usize)> {
        let inventory = self.inventory();
        let free = inventory.free(None);
        let here = std::iter::once(HEAD.to_owned()).filter(|_| !inventory.here.is_empty());
        let names = here.chain(inventory.nodes.keys().cloned());
        let count = |name: String| {
            let free = free.iter().find(|(node, _)| *node == name);
            (name, free.map_or(0, |(_, devices)| devices.len()))
        };
        names.map(count).collect()
    }

    /// Returns the devices that ranks wait for; `None` if every lease has its devices.
    pub(crate) fn missing(&self) -> Option<MissingDevices> {
        let inventory = self.inventory();
        let (first, Unplaced { reason, .. }) = inventory.unplaced.first_key_value()?;
        let wanted: usize = inventory.unplaced.values().map(|lease| lease.ranks).sum();
        let free: usize =
            inventory.free(Some(*first)).iter().map(|(_, devices)| devices.len()).sum();
        Some(MissingDevices { count: wanted.saturating_sub(free), reason: reason.clone() })
    }

    /// Returns the names of nodes that have been connected, and of those that were drained or removed.
    pub(crate) fn known(&self) -> BTreeSet<String> {
        let inventory = self.inventory();
        let here = std::iter::once(HEAD.to_owned()).filter(|_| !inventory.here.is_empty());
        let names =
            inventory.nodes.keys().chain(&inventory.cordoned).chain(&inventory.removed).cloned();
        here.chain(names).collect()
    }

    /// Excludes a node from getting ranks, or admits it again.
    pub(crate) fn cordon(&self, node: &str, cordoned: bool) {
        let mut inventory = self.inventory();
        match cordoned {
            true => inventory.cordoned.insert(node.to_owned()),
            false => inventory.cordoned.remove(node) | inventory.removed.remove(node),
        };
        drop(inventory);
        self.shared.changed.send_replace(());
    }

    /// Forgets a node without ranks, tells it to go, and refuses it from now on.
    pub(crate) fn forget(&self, node: &str) {
        let mut inventory = self.inventory();
        inventory.cordoned.remove(node);
        inventory.removed.insert(node.to_owned());
        if let Some(peer) = inventory.nodes.remove(node).and_then(|entry| entry.peer) {
            peer.close("this node was removed from the cluster");
        }
    }

    /// Ends the connection of a node that is no longer trusted, and gives its ranks up. Returns whether
    /// the node was connected.
    pub(crate) fn cut_off(&self, node: &str) -> bool {
        let mut inventory = self.inventory();
        inventory.cut_off.insert(node.to_owned());
        let entry = inventory.nodes.remove(node);
        drop(inventory);
        let Some(NodeEntry { peer, processes, .. }) = entry else { return false };
        if let Some(peer) = &peer {
            peer.close("the certificate of this node was revoked");
        }
        for (pid, exit) in processes {
            exit.send_if_modified(|exit| exit.is_none().then(|| *exit = Some(left(pid))).is_some());
        }
        self.shared.changed.send_replace(());
        peer.is_some()
    }

    /// Returns the status of each node.
    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        let show = |devices: &[Device]| {
            let devices = devices.iter().enumerate();
            let show = devices.map(|(index, device)| DeviceStatus {
                name: format!("cpu:{index}"),
                memory_bytes: device.memory_bytes,
                threads: device.threads,
            });
            show.collect::<Vec<_>>()
        };
        let inventory = self.inventory();
        let here = NodeStatus {
            name: HEAD.to_owned(),
            address: None,
            connected: true,
            drained: inventory.cordoned.contains(HEAD),
            devices: show(&inventory.here),
        };
        let there = inventory.nodes.iter().map(|(name, entry)| NodeStatus {
            name: name.clone(),
            address: Some(entry.address.to_string()),
            connected: entry.peer.is_some(),
            drained: inventory.cordoned.contains(name),
            devices: show(&entry.devices),
        });
        std::iter::once(here).filter(|head| !head.devices.is_empty()).chain(there).collect()
    }
}
