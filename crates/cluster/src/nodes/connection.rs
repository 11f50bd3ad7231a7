//! The connection of a node, from its offer until it is lost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use playhouse_link::{Inbox, Peer, PeerLost};
use playhouse_wire::{HeadReply, HeadRequest, Kind, PeerNote, Running};
use tokio::time::timeout;
use tracing::{info, warn};

use super::entry::{NodeEntry, left};
use super::{Device, Nodes};
use crate::head::HEAD;

/// How long a node may take to say what it offers.
const OFFER: Duration = Duration::from_secs(5);

// === impl Nodes ===

impl Nodes {
    /// Serves a node until it is lost. Processes that it runs and this head does not hold are passed to
    /// `left`.
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
            // The node reads that, and goes.
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

    /// Enters a node that has connected. Returns the processes that it runs and this head does not hold.
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
        // A process that was given up counts as unheld, even while a task still waits for its end.
        processes.retain(|pid, exit| exit.receiver_count() > 0 && !given_up.contains(pid));
        for (pid, exit) in &processes {
            if !running.iter().any(|process| process.pid == *pid) {
                // The node could not tell when that was.
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

    /// Listens to what a node tells, until it is lost. Returns why.
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

    /// Removes a node's connection, unless another connection of the node has taken its place.
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
}
