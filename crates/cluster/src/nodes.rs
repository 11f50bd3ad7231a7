//! The machines ranks can run on: what they offer, and who sits where.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use playhouse_link::{Inbox, Peer, PeerLost};
use playhouse_planner::{CrossDomain, DeviceType, Hardware, Node, Placement, RankMap};
use playhouse_types::ReplicaId;
use playhouse_wire::{Exit, ExitStatus, HeadReply, HeadRequest, Kind, PeerNote};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::head::HEAD;
use crate::status::{DeviceStatus, NodeStatus};

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

/// Every machine the head knows. The head itself comes first if it has devices.
#[derive(Debug)]
pub(crate) struct Nodes {
    floor: Mutex<Floor>,
    /// Says that a node has come.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Floor {
    here: Vec<Device>,
    nodes: BTreeMap<String, Entry>,
    /// Where the ranks of each replica sit.
    seats: HashMap<ReplicaId, Vec<Seat>>,
}

#[derive(Debug)]
struct Entry {
    devices: Vec<Device>,
    address: SocketAddr,
    /// While it is connected.
    peer: Option<Peer>,
    /// Its rank processes, by process id. `Some` when they have ended, which may be known before
    /// that they have started.
    processes: HashMap<u32, watch::Sender<Option<Exit>>>,
}

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(here: Vec<Device>) -> Self {
        let floor = Floor { here, nodes: BTreeMap::new(), seats: HashMap::new() };
        Self { floor: Mutex::new(floor), changed: watch::Sender::new(()) }
    }

    fn floor(&self) -> MutexGuard<'_, Floor> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a node; `None` for the head itself.
    pub(crate) fn peer(&self, node: &str) -> Result<Option<Peer>, String> {
        if node == HEAD {
            return Ok(None);
        }
        let floor = self.floor();
        let peer = floor.nodes.get(node).and_then(|entry| entry.peer.clone());
        peer.map(Some).ok_or_else(|| format!("node {node} is not connected"))
    }

    /// Becomes `Some` when the node says that the process has ended.
    pub(crate) fn watch_process(&self, node: &str, pid: u32) -> watch::Receiver<Option<Exit>> {
        let mut floor = self.floor();
        let Some(entry) = floor.nodes.get_mut(node) else {
            return watch::channel(Some(left(pid))).1;
        };
        entry.processes.retain(|other, exit| *other == pid || exit.receiver_count() > 0);
        entry.processes.entry(pid).or_default().subscribe()
    }

    /// Serves a node until it is lost.
    pub(crate) async fn welcome(&self, peer: Peer, mut inbox: Inbox, from: SocketAddr) {
        let name = peer.id().name().to_owned();
        let offer = timeout(OFFER, inbox.streams.next()).await.ok().flatten();
        let offer = offer.filter(|stream| stream.kind() == Kind::HeadRequest);
        let Some((HeadRequest::Offer { devices, .. }, mut stream)) =
            offer.and_then(|offer| offer.take::<HeadRequest>().ok())
        else {
            warn!("node {name} at {from} was turned away: it did not say what it offers");
            return peer.close("say what the node offers first");
        };
        let (offered, needed) = (devices.len(), self.floor().devices_in_use(&name));
        let reply = match () {
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
            let _ = timeout(OFFER, peer.lost().wait_for(Option::is_some)).await;
            return;
        }
        let devices: Vec<Device> = devices
            .iter()
            .map(|device| Device { memory_bytes: device.memory, threads: device.threads })
            .collect();
        info!("node {name} at {from} joined with {} devices", devices.len());
        self.enter(&name, devices, from, peer.clone());
        let lost = self.listen(&name, &mut inbox).await;
        warn!("node {name} at {from} was lost: {lost}");
        // A node that says goodbye takes its processes with it; one that falls silent may not.
        let goodbye = matches!(*peer.lost().borrow(), Some(PeerLost::Closed(_)));
        self.leave(&name, &peer, goodbye);
    }

    fn enter(&self, name: &str, devices: Vec<Device>, address: SocketAddr, peer: Peer) {
        let mut floor = self.floor();
        let processes = floor.nodes.remove(name).map(|entry| entry.processes).unwrap_or_default();
        let entry = Entry { devices, address, peer: Some(peer), processes };
        floor.nodes.insert(name.to_owned(), entry);
        drop(floor);
        self.changed.send_replace(());
    }

    /// What a node tells, until it is lost: then why.
    async fn listen(&self, name: &str, inbox: &mut Inbox) -> String {
        loop {
            match inbox.notes.next::<PeerNote>().await {
                Ok(PeerNote::Exited(exit)) => {
                    let mut floor = self.floor();
                    let entry = floor.nodes.get_mut(name);
                    if let Some(entry) = entry {
                        entry.processes.entry(exit.pid).or_default().send_replace(Some(exit));
                    }
                }
                Ok(_) => {}
                Err(why) => return why.to_string(),
            }
        }
    }

    /// Unless a later start of the node has taken its place.
    fn leave(&self, name: &str, peer: &Peer, goodbye: bool) {
        let mut floor = self.floor();
        if let Some(entry) = floor.nodes.get_mut(name) {
            let own = |live: &Peer| live.incarnation() == peer.incarnation();
            entry.peer = entry.peer.take().filter(|live| !own(live));
            if goodbye && entry.peer.is_none() {
                for (pid, exit) in &entry.processes {
                    exit.send_replace(Some(left(*pid)));
                }
            }
        }
    }

    /// Seats for the ranks of a replica, on devices that no other replica has: where they sat
    /// before as far as that is still possible. Waits up to `patience` for nodes to come.
    ///
    /// # Errors
    /// When there are too few devices: how many there are, and are needed.
    pub(crate) async fn place(
        &self,
        replica: ReplicaId,
        map: &RankMap,
        patience: Duration,
    ) -> Result<Vec<Seat>, String> {
        let mut changed = self.changed.subscribe();
        let mut why = String::new();
        let placed = timeout(patience, async {
            loop {
                match self.floor().place(replica, map) {
                    Ok(seats) => return seats,
                    Err(error) => why = error,
                }
                // The sender is ours.
                drop(changed.changed().await);
            }
        });
        placed.await.map_err(|_| why)
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
        let floor = self.floor();
        let here = NodeStatus {
            name: HEAD.to_owned(),
            address: None,
            connected: true,
            devices: show(&floor.here),
        };
        let there = floor.nodes.iter().map(|(name, entry)| NodeStatus {
            name: name.clone(),
            address: Some(entry.address.to_string()),
            connected: entry.peer.is_some(),
            devices: show(&entry.devices),
        });
        std::iter::once(here).filter(|head| !head.devices.is_empty()).chain(there).collect()
    }
}

// === impl Floor ===

impl Floor {
    fn place(&mut self, replica: ReplicaId, map: &RankMap) -> Result<Vec<Seat>, String> {
        let free = self.free(replica);
        let cpu = DeviceType::find("cpu").ok_or("the planner knows no CPUs")?;
        let nodes = free.iter().map(|(name, devices)| Node {
            name: name.clone(),
            devices: u32::try_from(devices.len()).unwrap_or(u32::MAX),
            device: cpu,
            domain: name.clone(),
        });
        let hardware = Hardware { nodes: nodes.collect() };
        let previous = self.seats.get(&replica).and_then(|seats| previous(seats, &free, map));
        let placed = Placement::new(map, &hardware, CrossDomain::Warn, previous.as_ref());
        let placed = placed.map_err(|why| format!("{replica}: {why}"))?;
        let seat = |seat: &playhouse_planner::Seat| {
            let (node, devices) = &free[seat.node as usize];
            let (device, threads) = devices[seat.device as usize];
            Seat { node: node.clone(), device, threads }
        };
        let seats: Vec<Seat> = placed.seats.iter().map(seat).collect();
        self.seats.insert(replica, seats.clone());
        Ok(seats)
    }

    /// Devices that a node must have for the ranks that sit there.
    fn devices_in_use(&self, node: &str) -> usize {
        let seats = self.seats.values().flatten().filter(|seat| seat.node == node);
        seats.map(|seat| seat.device as usize + 1).max().unwrap_or(0)
    }

    /// Devices with their threads that no replica but `replica` sits on, of nodes that are here.
    fn free(&self, replica: ReplicaId) -> Vec<(String, Vec<(u32, u32)>)> {
        let here = std::iter::once((HEAD.to_owned(), &self.here));
        let live = self.nodes.iter().filter(|(_, entry)| entry.peer.is_some());
        let all = here.chain(live.map(|(name, entry)| (name.clone(), &entry.devices)));
        let others = self.seats.iter().filter(|(id, _)| **id != replica);
        let others: Vec<&Seat> = others.flat_map(|(_, seats)| seats).collect();
        let free = all.map(|(name, devices)| {
            let taken =
                |index: u32| others.iter().any(|seat| seat.node == name && seat.device == index);
            let devices = (0..).zip(devices).filter(|(index, _)| !taken(*index));
            let devices = devices.map(|(index, device)| (index, device.threads)).collect();
            (name.clone(), devices)
        });
        free.filter(|(_, devices): &(_, Vec<_>)| !devices.is_empty()).collect()
    }
}

/// The seats as the planner names them, if some of their devices are still free.
fn previous(
    seats: &[Seat],
    free: &[(String, Vec<(u32, u32)>)],
    map: &RankMap,
) -> Option<Placement> {
    let nodes = free.iter().map(|(name, _)| name.clone());
    // A node that is gone: no seat of it exists any more.
    let nodes: Vec<String> = nodes.chain([String::new()]).collect();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let gone = playhouse_planner::Seat { node: number(free.len()), device: 0 };
    let named = |seat: &Seat| {
        let node = free.iter().position(|(name, _)| *name == seat.node)?;
        let device = free[node].1.iter().position(|(index, _)| *index == seat.device)?;
        Some(playhouse_planner::Seat { node: number(node), device: number(device) })
    };
    let seats: Vec<_> = seats.iter().map(|seat| named(seat).unwrap_or(gone)).collect();
    let stage_ranks = map.widths().stage_ranks;
    Some(Placement { nodes, seats, stage_ranks, crossing: Vec::new() })
}

fn left(pid: u32) -> Exit {
    Exit { pid, status: ExitStatus::Code(-1), reason: "its node has left".to_owned() }
}
