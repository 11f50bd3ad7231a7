//! The agent of a node: offers the machine's devices to the head, starts the processes of ranks and
//! reaps them.
//!
//! - **AG-1** an agent ends by itself only if the head refuses it for a reason that a person has to
//!   remove, or cannot be reached for as long as [`FIRST`] or [`AGAIN`]. While another process of its
//!   name is connected, the agent says so and keeps trying.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use playhouse_link::{CallError, DialError, Inbox, Incoming, KeepIdentity, Peer, Stream, Streams};
use playhouse_types::Epoch;
use playhouse_wire::{
    DeviceKind, HeadReply, HeadRequest, NodeReply, NodeRequest, NodeStats, PeerNote, Refusal,
    Running, Spawn,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::child::{Child, ChildStarter};
use crate::head::{HeadAddress, NoHead, Way};
use crate::nodes::Device;

/// How long the agent looks for the head at first, when its address may be wrong ...
const FIRST: Duration = Duration::from_secs(15);
/// ... and later, when the head was there and may be starting anew.
const AGAIN: Duration = Duration::from_secs(600);

/// How long the head may take to answer an offer.
const OFFER: Duration = Duration::from_secs(5);

/// How long to wait before a head that did not take this node is asked once more: at first, and at most.
/// The wait doubles with each attempt.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The configuration of a node: how it finds the head, and what it offers.
pub struct NodeConfig {
    /// How the node finds the head.
    pub way: Way,
    /// Starts the processes of ranks.
    pub children: ChildStarter,
    /// The devices that ranks may use.
    pub devices: Vec<Device>,
    /// Bytes of memory of the machine.
    pub memory_bytes: u64,
    /// Set to whether the head has taken the node and is connected.
    pub joined: watch::Sender<bool>,
    /// Writes the next certificate down.
    pub keep: KeepIdentity,
}

/// The reason why a node's agent ends.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The head does not answer, or refuses the node.
    #[error(transparent)]
    Head(#[from] NoHead),
    /// The head did not answer the offer.
    #[error("the head at {0} did not answer the offer of devices: {1}")]
    Unanswered(HeadAddress, CallError),
    /// The head does not take what the node offers.
    #[error("the head does not take this node: {0}")]
    Refused(String),
}

/// The state that the calls of the head share.
struct Agent {
    config: NodeConfig,
    state: Mutex<AgentState>,
}

#[derive(Default)]
struct AgentState {
    /// The connection to the head, as far as it is known to live.
    head: Option<Peer>,
    /// The processes of ranks, by process id. They survive the head for a while: a later head may take
    /// them over, or tell this agent to end them.
    children: BTreeMap<u32, RankChild>,
}

/// The process of a rank.
struct RankChild {
    name: String,
    device: u32,
    /// Its drop kills it.
    _child: Child,
}

/// Runs the agent of a node: serves the head, and looks for the head when the connection is lost, until
/// `stop` completes. Then the agent tells the head, and every process ends.
///
/// # Errors
/// See [`NodeError`].
pub async fn run_node(config: NodeConfig, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
    let agent = Arc::new(Agent { config, state: Mutex::default() });
    tokio::select! {
        biased;
        served = serve(&agent) => return served,
        () = stop => {}
    }
    agent.config.way.endpoint.shut_down("the node stops").await;
    Ok(())
}

async fn serve(agent: &Arc<Agent>) -> Result<(), NodeError> {
    let mut budget = FIRST;
    loop {
        let (peer, inbox) = agent.join(budget).await?;
        let NodeConfig { way, devices, .. } = &agent.config;
        info!("joined the head at {} with {} devices", way.head, devices.len());
        agent.config.joined.send_replace(true);
        tokio::select! {
            biased;
            () = agent.serve(inbox.streams) => {}
            never = way.endpoint.renew_over(&peer, agent.config.keep.clone()) => match never {},
        }
        agent.config.joined.send_replace(false);
        agent.state().head = None;
        let why = peer.until_lost().await;
        warn!("the head is gone: {why}");
        budget = AGAIN;
    }
}

// === impl NodeError ===

impl NodeError {
    /// Returns whether another process of this node's name is connected to the head.
    fn is_taken_name(&self) -> bool {
        let Self::Head(NoHead { why, .. }) = self else { return false };
        matches!(why.last, DialError::Refused(Refusal::DuplicateName { .. }))
    }
}

// === impl Agent ===

impl Agent {
    fn state(&self) -> MutexGuard<'_, AgentState> {
        self.state.lock()
    }

    /// Looks for the head for as long as `budget`, until it takes what is offered. The search begins
    /// anew with every sign that the head is there and another process has this node's name (**AG-1**).
    async fn join(&self, budget: Duration) -> Result<(Peer, Inbox), NodeError> {
        let (mut until, mut pause) = (Instant::now() + budget, PAUSE);
        let mut told = String::new();
        loop {
            let why = match self.ask(until.saturating_duration_since(Instant::now())).await {
                Ok(joined) => return Ok(joined),
                Err(why) => why,
            };
            if why.is_taken_name() {
                until = Instant::now() + budget;
            } else if !matches!(why, NodeError::Unanswered(..)) || Instant::now() >= until {
                return Err(why);
            }
            let text = why.to_string();
            if told != text {
                warn!("{text}; trying again");
                told = text;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Dials the head, for as long as `budget`, and makes it one offer.
    async fn ask(&self, budget: Duration) -> Result<(Peer, Inbox), NodeError> {
        let (peer, inbox) = self.config.way.dial(budget, Epoch(0)).await?;
        self.offer(&peer).await?;
        Ok((peer, inbox))
    }

    /// Offers devices to the head, and says which processes run. From before the offer on, the head is
    /// told of each process that ends, so that no end falls between the offer and the first such
    /// message.
    async fn offer(&self, peer: &Peer) -> Result<(), NodeError> {
        self.state().head = Some(peer.clone());
        let devices = self.config.devices.iter().map(|device| playhouse_wire::Device {
            kind: DeviceKind::Cpu,
            name: "cpu".to_owned(),
            memory: device.memory_bytes,
            threads: device.threads,
        });
        let offer = HeadRequest::Offer {
            devices: devices.collect(),
            memory: self.config.memory_bytes,
            processes: self.running(),
        };
        let refused = match peer.call(offer, OFFER).await {
            Ok(HeadReply::Accepted) => return Ok(()),
            Ok(HeadReply::Refused(why)) => NodeError::Refused(why),
            Err(why) => NodeError::Unanswered(self.config.way.head.clone(), why),
        };
        self.state().head = None;
        Err(refused)
    }

    fn running(&self) -> Vec<Running> {
        let state = self.state();
        let running = |(pid, RankChild { name, device, .. }): (&u32, &RankChild)| Running {
            name: name.clone(),
            device: *device,
            pid: *pid,
        };
        state.children.iter().map(running).collect()
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
                // The drop kills the process; its end is told like any other.
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
        let NodeConfig { way, children, .. } = &self.config;
        let child = children(&name, &way.head, identity);
        let child = child.map_err(|why| format!("cannot start a process: {why}"))?;
        let (pid, mut exited) = (child.pid, child.exited.clone());
        let child = RankChild { name, device, _child: child };
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
