//! The agent of a machine: offers its devices to the head, starts the processes of ranks and reaps
//! them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use playhouse_link::{BindError, CallError, Identity, Incoming, Peer, Stream, Streams};
use playhouse_wire::{
    DeviceKind, HeadReply, HeadRequest, NodeReply, NodeRequest, NodeStats, PeerNote, Spawn,
};
use tracing::{info, warn};

use crate::child::Child;
use crate::head::{NoHead, Way};
use crate::nodes::Device;

/// How long to look for the head: at first, when its address may be wrong ...
const FIRST: Duration = Duration::from_secs(15);
/// ... and again, when it was there and may be starting anew.
const AGAIN: Duration = Duration::from_secs(600);

/// How long the head may take to answer an offer.
const OFFER: Duration = Duration::from_secs(5);

/// A machine and what it offers.
pub struct NodeConfig {
    /// Where the head listens.
    pub head: SocketAddr,
    /// Who the node is.
    pub identity: Identity,
    /// The program whose subcommand `shard` is the process of a rank.
    pub program: PathBuf,
    /// What ranks may use.
    pub devices: Vec<Device>,
    /// Bytes of memory of the machine.
    pub memory_bytes: u64,
}

/// Why a node ends.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It cannot open a socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The head does not answer, or does not let it in.
    #[error(transparent)]
    Head(#[from] NoHead),
    /// The head did not answer the offer.
    #[error("the head at {0} did not answer the offer of devices: {1}")]
    Unanswered(SocketAddr, CallError),
    /// The head does not take what is offered.
    #[error("the head does not take this node: {0}")]
    Refused(String),
}

/// What the calls of the head have in common.
struct Agent {
    config: NodeConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The head, as far as it is known to live.
    head: Option<Peer>,
    /// Which start of the head it was at last.
    head_incarnation: u64,
    /// By process id. Processes survive the head for a while, and it may come back.
    children: HashMap<u32, Child>,
}

/// Serves the head, and looks for it when it is lost, until `stop` completes. Then the head is told,
/// and every process ends.
///
/// # Errors
/// See [`NodeError`].
pub async fn run_node(config: NodeConfig, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let way = Way::new(config.head, &config.identity)?;
    let served = serve(&way, config);
    tokio::select! {
        served = served => return served,
        () = stop => {}
    }
    way.endpoint.shut_down("the node stops").await;
    Ok(())
}

async fn serve(way: &Way, config: NodeConfig) -> Result<(), NodeError> {
    let agent = Arc::new(Agent { config, state: Mutex::default() });
    let mut budget = FIRST;
    loop {
        let (peer, inbox) = way.dial(budget).await?;
        agent.offer(&peer).await?;
        let NodeConfig { head, devices, .. } = &agent.config;
        info!("joined the head at {head} with {} devices", devices.len());
        agent.welcome(&peer);
        agent.serve(inbox.streams).await;
        agent.state().head = None;
        let lost = peer.lost().borrow().as_ref().map(ToString::to_string);
        warn!("the head is gone: {}", lost.unwrap_or_default());
        budget = AGAIN;
    }
}

// === impl Agent ===

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Belongs to this head from now on. One that was started anew knows none of our processes.
    fn welcome(&self, head: &Peer) {
        let mut state = self.state();
        if state.head_incarnation != head.incarnation() {
            state.children.clear();
        }
        state.head_incarnation = head.incarnation();
        state.head = Some(head.clone());
    }

    async fn offer(&self, peer: &Peer) -> Result<(), NodeError> {
        let devices = self.config.devices.iter().map(|device| playhouse_wire::Device {
            kind: DeviceKind::Cpu,
            name: "cpu".to_owned(),
            memory: device.memory_bytes,
            threads: device.threads,
        });
        let offer =
            HeadRequest::Offer { devices: devices.collect(), memory: self.config.memory_bytes };
        match peer.call(offer, OFFER).await {
            Ok(HeadReply::Accepted) => Ok(()),
            Ok(HeadReply::Refused(why)) => Err(NodeError::Refused(why)),
            Err(why) => Err(NodeError::Unanswered(self.config.head, why)),
        }
    }

    /// Answers the head until it is lost.
    async fn serve(self: &Arc<Self>, mut streams: Streams) {
        while let Some(incoming) = streams.next().await {
            let agent = Arc::clone(self);
            tokio::spawn(async move { agent.answer(incoming).await });
        }
    }

    async fn answer(self: &Arc<Self>, incoming: Incoming) {
        let Ok((request, stream)) = incoming.take::<NodeRequest>() else { return };
        let Stream { mut sender, .. } = stream;
        let reply = match request {
            NodeRequest::Spawn(spawn) => match self.spawn(spawn) {
                Ok(pid) => NodeReply::Spawned { pid },
                Err(why) => NodeReply::Failed(why),
            },
            NodeRequest::Kill { pid } => {
                // Its guard kills it; its end is told like any other.
                drop(self.state().children.remove(&pid));
                NodeReply::Killed
            }
            NodeRequest::Stats => NodeReply::Stats(NodeStats {
                processes: u32::try_from(self.state().children.len()).unwrap_or(u32::MAX),
                memory_free: self.config.memory_bytes,
            }),
        };
        // A head that is gone needs no answer.
        if sender.send(&reply).await.is_ok() {
            drop(sender.finish().await);
        }
    }

    fn spawn(self: &Arc<Self>, spawn: Spawn) -> Result<u32, String> {
        let Spawn { name, device, identity } = spawn;
        let offered = self.config.devices.len();
        if device as usize >= offered {
            return Err(format!("there is no device {device}: the node offers {offered}"));
        }
        let child = Child::spawn(&self.config.program, &name, self.config.head, identity);
        let child = child.map_err(|why| format!("cannot start a process: {why}"))?;
        let (pid, mut exited) = (child.pid, child.exited.clone());
        self.state().children.insert(pid, child);
        let agent = Arc::clone(self);
        tokio::spawn(async move {
            let exit = exited.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
            let mut state = agent.state();
            state.children.remove(&pid);
            if let Some((head, exit)) = state.head.as_ref().zip(exit)
                && let Err(why) = head.tell(&PeerNote::Exited(exit))
            {
                warn!("the head could not be told of the end of process {pid}: {why}");
            }
        });
        Ok(pid)
    }
}
