//! The machines ranks can run on: what they offer, and who sits where.
//!
//! - **ND-1** nobody is seated on a node that was told to end a process and has not answered: its
//!   device may not be free, and the node may be gone. It answers within a round trip, or is lost.
//! - **ND-2** nobody waits for a node longer than it is connected.
//! - **ND-3** a device belongs to one [`Lease`] from its placement until that lease is dropped, which is
//!   after the last process on it has ended. What an older lease of a replica does concerns that
//!   lease alone (**A13**).
//! - **ND-4** what a node tells of its processes takes no more memory than the head has asked for.
//! - **ND-5** no offer displaces a node that is connected and answers: another process of its name, such
//!   as one with a copy of its folder, is refused before its offer is read (**LK-9**).
//! - **ND-6** a node on which the last rank did not come to have its weights gets ranks only where no other
//!   node will do, until one of its ranks has them, or it joins again.

mod inventory;
mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use playhouse_link::{Inbox, Peer, PeerLost};
use playhouse_types::ReplicaId;
use playhouse_wire::{Exit, ExitStatus, HeadReply, HeadRequest, Kind, PeerNote, Running};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

pub(crate) use self::lease::{Lease, Starting};

use crate::head::HEAD;
use crate::leases::Leases;
use crate::status::{DeviceStatus, NodeStatus, Whereabouts};

/// How long a node may take to say what it offers.
const OFFER: Duration = Duration::from_secs(5);

/// Something a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Bytes of memory: its own, or its share of the machine's.
    pub memory_bytes: u64,
    /// CPU threads that go with it.
    pub threads: u32,
}

/// A device of a node, for one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) node: String,
    /// An index into what the node offers.
    pub(crate) device: u32,
    /// CPU threads that go with it.
    pub(crate) threads: u32,
}

/// Every machine the head knows. The head itself comes first if it has devices. Clones are of the same.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inventory: Mutex<DeviceInventory>,
    /// Says that a node has come, has gone or has answered, or that devices were taken or are free.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct DeviceInventory {
    here: Vec<Device>,
    nodes: BTreeMap<String, NodeEntry>,
    /// Where ranks sit.
    leases: Leases<Vec<Seat>>,
    /// Where the ranks of a replica sat for an earlier head, until there is a lease for it.
    remembered: BTreeMap<ReplicaId, Vec<Seat>>,
    /// Nodes that get no more ranks.
    cordoned: BTreeSet<String>,
    /// Nodes that are turned away although they have a certificate.
    removed: BTreeSet<String>,
    /// Nodes on which the last rank did not come to have its weights.
    failing: BTreeSet<String>,
    /// Nodes that were cut off and have not joined again: nobody waits for them.
    cut_off: BTreeSet<String>,
}

#[derive(Debug)]
struct NodeEntry {
    devices: Vec<Device>,
    address: SocketAddr,
    /// While it is connected.
    peer: Option<Peer>,
    /// Its rank processes, by process id. `Some` when they have ended, which may be known before
    /// that they have started.
    processes: BTreeMap<u32, watch::Sender<Option<Exit>>>,
    /// Processes that it was told to end, and has not answered.
    ending: BTreeSet<u32>,
    /// Processes that it was told to start, and has not answered.
    starting: usize,
}

/// Devices with their threads, by node.
type Free = Vec<(String, Vec<(u32, u32)>)>;

// === impl Seat ===

impl Seat {
    /// Where a process is that sits there.
    pub(crate) fn whereabouts(&self, pid: u32) -> Whereabouts {
        let Self { node, device, .. } = self;
        Whereabouts { node: node.clone(), device: format!("cpu:{device}"), pid }
    }
}

// === impl NodeEntry ===

impl NodeEntry {
    /// A process has ended, which may be known before that it has started. Others that the head knows
    /// nothing of are not remembered (**ND-4**).
    fn ended(&mut self, exit: Exit) {
        let unknown = self.processes.values().filter(|exit| exit.receiver_count() == 0).count();
        match self.processes.get(&exit.pid) {
            Some(known) => drop(known.send_replace(Some(exit))),
            None if unknown < self.starting => {
                drop(self.processes.entry(exit.pid).or_default().send_replace(Some(exit)));
            }
            None => {}
        }
    }

    /// The connection, unless it is known to be lost, which may be before [`Nodes`] hears of it.
    fn live(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| peer.lost().borrow().is_none())
    }
}

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(here: Vec<Device>) -> Self {
        let (nodes, leases, remembered) = Default::default();
        let (cordoned, removed, failing, cut_off) = Default::default();
        let inventory = DeviceInventory {
            here,
            nodes,
            leases,
            remembered,
            cordoned,
            removed,
            failing,
            cut_off,
        };
        let shared = Shared { inventory: Mutex::new(inventory), changed: watch::Sender::new(()) };
        Self { shared: Arc::new(shared) }
    }

    fn inventory(&self) -> MutexGuard<'_, DeviceInventory> {
        self.shared.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a node; `None` for the head itself.
    pub(crate) fn peer(&self, node: &str) -> Result<Option<Peer>, String> {
        if node == HEAD {
            return Ok(None);
        }
        let inventory = self.inventory();
        let peer = inventory.nodes.get(node).and_then(NodeEntry::live).cloned();
        peer.map(Some).ok_or_else(|| format!("node {node} is not connected"))
    }

    /// Waits until a node has left, and everybody knows that has to. The head itself never does.
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

    /// The connection to a node that is to end a process, if it is connected. Nobody is seated there
    /// until it [has answered](Self::answered): a machine that is gone takes its ranks along, and the
    /// loss of one of them may be seen before that of the machine.
    pub(crate) fn ask_to_end(&self, node: &str, pid: u32) -> Option<Peer> {
        let mut inventory = self.inventory();
        let entry = inventory.nodes.get_mut(node)?;
        let peer = entry.live()?.clone();
        entry.ending.insert(pid);
        Some(peer)
    }

    /// A node has ended a process, or will not.
    pub(crate) fn answered(&self, node: &str, pid: u32) {
        if let Some(entry) = self.inventory().nodes.get_mut(node) {
            entry.ending.remove(&pid);
        }
        self.shared.changed.send_replace(());
    }

    /// Ranks have their seats on this node, whether it is connected or not.
    pub(crate) fn waits_for(&self, node: &str) -> bool {
        let inventory = self.inventory();
        inventory.devices_in_use(node) > 0 && !inventory.cut_off.contains(node)
    }

    /// Becomes `Some` when the node says that the process has ended.
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

    /// Serves a node until it is lost. What it runs and nobody here holds is `left` over.
    pub(crate) async fn welcome(
        &self,
        peer: Peer,
        mut inbox: Inbox,
        from: SocketAddr,
        left: impl FnOnce(Vec<Running>),
    ) {
        let name = peer.id().name().to_owned();
        let offer = timeout(OFFER, inbox.streams.next()).await.ok().flatten();
        let offer = offer.filter(|stream| stream.kind() == Kind::HeadRequest);
        let Some((HeadRequest::Offer { devices, processes, .. }, mut stream)) =
            offer.and_then(|offer| offer.take::<HeadRequest>().ok())
        else {
            warn!("node {name} at {from} was turned away: it did not say what it offers");
            return peer.close("say what the node offers first");
        };
        let (offered, needed) = (devices.len(), self.inventory().devices_in_use(&name));
        let removed = self.inventory().removed.contains(&name);
        let reply = match () {
            () if removed => HeadReply::Refused(format!(
                "it was removed from the cluster: `playhouse undrain node {name}` lets it back"
            )),
            () if name == HEAD => HeadReply::Refused(format!(
                "{HEAD} is the name of the head's own machine: give another --name"
            )),
            () if offered == 0 => {
                HeadReply::Refused("it offers no devices: give it --devices".to_owned())
            }
            () if offered < needed => HeadReply::Refused(format!(
                "it offers {offered} devices, and ranks belong on {needed}: start it with as many \
                 as before, or under another name"
            )),
            () => HeadReply::Accepted,
        };
        drop(stream.sender.send(&reply).await);
        drop(stream.sender.finish().await);
        if let HeadReply::Refused(why) = reply {
            warn!("node {name} at {from} was turned away: {why}");
            // It reads that, and goes.
            let _ = timeout(OFFER, peer.until_lost()).await;
            return;
        }
        let devices: Vec<Device> = devices
            .iter()
            .map(|device| Device { memory_bytes: device.memory, threads: device.threads })
            .collect();
        info!("node {name} at {from} joined with {} devices", devices.len());
        left(self.enter(&name, devices, from, peer.clone(), processes));
        let lost = self.listen(&name, &mut inbox).await;
        warn!("node {name} at {from} was lost: {lost}");
        // A node that says goodbye takes its processes with it; one that falls silent may not.
        let goodbye = matches!(peer.until_lost().await, PeerLost::Closed(_));
        self.leave(&name, &peer, goodbye);
    }

    /// A node is here. Returns what it runs and nobody here holds.
    fn enter(
        &self,
        name: &str,
        devices: Vec<Device>,
        address: SocketAddr,
        peer: Peer,
        mut running: Vec<Running>,
    ) -> Vec<Running> {
        let mut inventory = self.inventory();
        let (mut processes, given_up) = match inventory.nodes.remove(name) {
            Some(entry) => (entry.processes, entry.ending),
            None => Default::default(),
        };
        // Whoever waits for the end of one that was given up does not hold it.
        processes.retain(|pid, exit| exit.receiver_count() > 0 && !given_up.contains(pid));
        for (pid, exit) in &processes {
            if !running.iter().any(|process| process.pid == *pid) {
                // It could not tell when that was.
                exit.send_if_modified(|exit| exit.is_none() && exit.replace(left(*pid)).is_none());
            }
        }
        running.retain(|process| !processes.contains_key(&process.pid));
        inventory.cut_off.remove(name);
        inventory.failing.remove(name);
        let (peer, ending) = (Some(peer), BTreeSet::new());
        let entry = NodeEntry { devices, address, peer, processes, ending, starting: 0 };
        inventory.nodes.insert(name.to_owned(), entry);
        drop(inventory);
        self.shared.changed.send_replace(());
        running
    }

    /// A device of a node that is known.
    pub(crate) fn seat(&self, node: &str, device: u32) -> Option<Seat> {
        let inventory = self.inventory();
        let Device { threads, .. } = inventory.nodes.get(node)?.devices.get(device as usize)?;
        Some(Seat { node: node.to_owned(), device, threads: *threads })
    }

    /// The ranks of a replica sat here before, stage by stage, and shall again as far as that is
    /// possible; `None` for those of which that is not known.
    pub(crate) fn remember(&self, replica: ReplicaId, seats: Vec<Option<Seat>>) {
        let nowhere = || Seat { node: String::new(), device: 0, threads: 0 };
        let seats = seats.into_iter().map(|seat| seat.unwrap_or_else(nowhere));
        self.inventory().remembered.insert(replica, seats.collect());
    }

    /// A lease for a start of a replica, without devices yet. It wants those that are remembered.
    pub(crate) fn lease(&self, replica: ReplicaId) -> Lease {
        let mut inventory = self.inventory();
        let seats = inventory.remembered.remove(&replica).unwrap_or_default();
        let id = inventory.leases.add(replica, seats);
        drop(inventory);
        Lease { nodes: self.clone(), id }
    }

    /// Whether a rank on this node has its weights now, or never will (**ND-6**).
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

    /// A node is told to start a process: until the call is over, it may tell of the end of one that is
    /// not known yet (**ND-4**).
    pub(crate) fn starts_process(&self, node: &str) -> Starting {
        if let Some(entry) = self.inventory().nodes.get_mut(node) {
            entry.starting += 1;
        }
        Starting { nodes: self.clone(), node: node.to_owned() }
    }

    /// What a node tells, until it is lost: then why.
    async fn listen(&self, name: &str, inbox: &mut Inbox) -> String {
        loop {
            match inbox.notes.next::<PeerNote>().await {
                Ok(PeerNote::Exited(exit)) => {
                    let mut inventory = self.inventory();
                    if let Some(entry) = inventory.nodes.get_mut(name) {
                        entry.ended(exit);
                    }
                }
                Ok(_) => {}
                Err(why) => return why.to_string(),
            }
        }
    }

    /// Unless another connection of the node has taken its place.
    fn leave(&self, name: &str, peer: &Peer, goodbye: bool) {
        let mut inventory = self.inventory();
        if let Some(entry) = inventory.nodes.get_mut(name) {
            entry.peer = entry.peer.take().filter(|live| !live.is(peer));
            if goodbye && entry.peer.is_none() {
                for (pid, exit) in &entry.processes {
                    exit.send_replace(Some(left(*pid)));
                }
            }
        }
        drop(inventory);
        self.shared.changed.send_replace(());
    }

    /// Bytes of memory of the devices that ranks sit on.
    pub(crate) fn memory_of(&self, seats: &[Seat]) -> Vec<u64> {
        let inventory = self.inventory();
        inventory.memories(seats)
    }

    /// Nodes that the ranks of a replica sit on, once for each rank.
    pub(crate) fn of_replica(&self, replica: ReplicaId) -> Vec<String> {
        let inventory = self.inventory();
        let remembered = inventory.remembered.get(&replica).into_iter().flatten();
        let seats = inventory.leases.of(replica).flatten().chain(remembered);
        seats.map(|seat| seat.node.clone()).collect()
    }

    /// Waits until ranks sit on other nodes than these: on which. The head's own machine is none.
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

    /// Devices of every node that is known which a new rank could have.
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

    /// Names of nodes that have been here, and of those that were drained or removed.
    pub(crate) fn known(&self) -> BTreeSet<String> {
        let inventory = self.inventory();
        let here = std::iter::once(HEAD.to_owned()).filter(|_| !inventory.here.is_empty());
        let names =
            inventory.nodes.keys().chain(&inventory.cordoned).chain(&inventory.removed).cloned();
        here.chain(names).collect()
    }

    /// Gives a node no more ranks, or lets it have some again.
    pub(crate) fn cordon(&self, node: &str, cordoned: bool) {
        let mut inventory = self.inventory();
        match cordoned {
            true => inventory.cordoned.insert(node.to_owned()),
            false => inventory.cordoned.remove(node) | inventory.removed.remove(node),
        };
        drop(inventory);
        self.shared.changed.send_replace(());
    }

    /// Forgets a node that no rank sits on. It is told to go, and not to come back.
    pub(crate) fn forget(&self, node: &str) {
        let mut inventory = self.inventory();
        inventory.cordoned.remove(node);
        inventory.removed.insert(node.to_owned());
        if let Some(peer) = inventory.nodes.remove(node).and_then(|entry| entry.peer) {
            peer.close("this node was removed from the cluster");
        }
    }

    /// Ends the connection of a node that is no longer trusted, and gives its ranks up: whether it was
    /// connected.
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

    /// How each node is.
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

fn left(pid: u32) -> Exit {
    Exit { pid, status: ExitStatus::Code(-1), reason: "its node has left".to_owned() }
}
