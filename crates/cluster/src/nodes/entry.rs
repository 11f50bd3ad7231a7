//! What the head knows of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use playhouse_link::Peer;
use playhouse_wire::{Exit, ExitStatus};
use tokio::sync::watch;

use super::Device;

/// A node that has joined, and what is known of its processes.
#[derive(Debug)]
pub(super) struct NodeEntry {
    pub(super) devices: Vec<Device>,
    pub(super) address: SocketAddr,
    /// While it is connected.
    pub(super) peer: Option<Peer>,
    /// Its rank processes, by process id. `Some` when they have ended, which may be known before
    /// that they have started.
    pub(super) processes: BTreeMap<u32, watch::Sender<Option<Exit>>>,
    /// Processes that it was told to end, and has not answered.
    pub(super) ending: BTreeSet<u32>,
    /// Processes that it was told to start, and has not answered.
    pub(super) starting: usize,
}

// === impl NodeEntry ===

impl NodeEntry {
    /// A process has ended, which may be known before that it has started. Others that the head knows
    /// nothing of are not remembered (**ND-4**).
    pub(super) fn ended(&mut self, exit: Exit) {
        let unknown = self.processes.values().filter(|exit| exit.receiver_count() == 0).count();
        match self.processes.get(&exit.pid) {
            Some(known) => drop(known.send_replace(Some(exit))),
            None if unknown < self.starting => {
                drop(self.processes.entry(exit.pid).or_default().send_replace(Some(exit)));
            }
            None => {}
        }
    }

    /// The connection, unless it is known to be lost, which may be before [`Nodes`](super::Nodes) hears of it.
    pub(super) fn live(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| peer.lost().borrow().is_none())
    }
}

/// How a process ended whose node has left.
pub(super) fn left(pid: u32) -> Exit {
    Exit { pid, status: ExitStatus::Code(-1), reason: "its node has left".to_owned() }
}
