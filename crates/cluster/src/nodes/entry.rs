//! The head's knowledge of one node.

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
    /// The connection, while the node is connected.
    pub(super) peer: Option<Peer>,
    /// The node's rank processes, by process id. `Some` when they have ended, which may be known before
    /// their start is.
    pub(super) processes: BTreeMap<u32, watch::Sender<Option<Exit>>>,
    /// Processes that the node was told to end, without an answer yet.
    pub(super) ending: BTreeSet<u32>,
    /// The number of processes that the node was told to start, without an answer yet.
    pub(super) starting: usize,
}

// === impl NodeEntry ===

impl NodeEntry {
    /// Records that a process has ended, which may be known before its start is. Other processes that
    /// the head does not know are not remembered (**ND-4**).
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

    /// Returns the connection, unless it is known to be lost, which may be before
    /// [`Nodes`](super::Nodes) hears of it.
    pub(super) fn live(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| peer.lost().borrow().is_none())
    }
}

/// Returns the exit of a process whose node has left.
pub(super) fn left(pid: u32) -> Exit {
    Exit { pid, status: ExitStatus::Code(-1), reason: "its node has left".to_owned() }
}
