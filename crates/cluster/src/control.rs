//! The head's end of the control plane: who may connect, and the processes of ranks.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use playhouse_link::{
    Arrival, Arrivals, Authority, BindError, Endpoint, IdentityError, Inbox, JoinDesk, Knock,
    LinkConfig, Peer,
};
use playhouse_types::Epoch;
use playhouse_wire::{Exit, NodeReply, NodeRequest, PeerId, Refusal, Role, Spawn};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::child::Child;
use crate::head::{HEAD, incarnation};
use crate::nodes::{Device, Nodes, Seat};
use crate::overview::NoToken;
use crate::rank::Loss;
use crate::status::{NodeStatus, Whereabouts};

/// How long a started process may take to connect. It only has to start and to shake hands.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long a node may take to start a process.
const SPAWN: Duration = Duration::from_secs(10);

/// Where the head listens and what it runs ranks with.
pub struct ControlConfig {
    /// Where nodes and shards connect.
    pub address: SocketAddr,
    /// Signs who may.
    pub authority: Authority,
    /// The program whose subcommand `shard` is the process of a rank.
    pub program: PathBuf,
    /// Devices of this machine that ranks use. Without any, ranks run on nodes, which may join.
    pub devices: Vec<Device>,
}

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The head has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The head cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system does not say where the head listens.
    #[error("cannot listen for shards: {0}")]
    Io(#[from] io::Error),
}

/// How long the parent of a process that was lost may take to say how it ended.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The head's end of the control plane. Dropping the last clone ends it.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    address: SocketAddr,
    desk: Arc<JoinDesk>,
    admits_nodes: bool,
    program: PathBuf,
    nodes: Nodes,
    awaited: Mutex<HashMap<PeerId, oneshot::Sender<Side>>>,
}

/// A peer and what it asks.
type Side = (Peer, Inbox);

/// A connected rank process. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) peer: Peer,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) seat: Seat,
    /// Becomes `Some` when the process has ended.
    exited: watch::Receiver<Option<Exit>>,
    _hold: Hold,
    _inbox: Inbox,
}

/// A place in the list of who is awaited, for as long as somebody waits.
struct Awaited<'a> {
    inner: &'a Inner,
    id: PeerId,
}

/// What keeps a process alive.
#[derive(Debug)]
enum Hold {
    Here { _child: Child },
    There { pid: u32, node: Peer, runtime: Handle },
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Listens. Must be called on the runtime that is to drive processes.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn start(config: ControlConfig) -> Result<Self, ControlError> {
        let ControlConfig { address, authority, program, devices } = config;
        let id = PeerId::new(Role::Head, HEAD).map_err(io::Error::other)?;
        let identity = authority.identify(&id)?;
        let (endpoint, arrivals) =
            Endpoint::bind(address, &identity, incarnation(), LinkConfig::default())?;
        let desk = Arc::new(JoinDesk::new(authority));
        let admits_nodes = devices.is_empty();
        if admits_nodes {
            endpoint.admit_nodes(Arc::clone(&desk));
        }
        let address = reachable(endpoint.local_addr()?);
        let nodes = Nodes::new(devices);
        let awaited = Mutex::default();
        let inner =
            Arc::new(Inner { endpoint, address, desk, admits_nodes, program, nodes, awaited });
        tokio::spawn(receive(Arc::downgrade(&inner), arrivals));
        Ok(Self { inner })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The machines ranks can run on.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.inner.nodes
    }

    /// How each node is.
    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        self.inner.nodes.statuses()
    }

    /// A token that lets one node in.
    pub(crate) fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        if !self.inner.admits_nodes {
            return Err(NoToken::NotListening);
        }
        let token = self.inner.desk.issue(ttl).map_err(|why| NoToken::Failed(why.to_string()))?;
        Ok(token.to_string())
    }

    /// The runtime of the connections, for tasks that pass messages on.
    pub(crate) fn runtime(&self) -> &Handle {
        self.inner.endpoint.runtime()
    }

    /// Ends all connections, and says why.
    pub(crate) async fn shut_down(&self) {
        self.inner.endpoint.shut_down("the head stops").await;
    }

    /// Starts the process of a rank on its seat, and waits until it has connected.
    pub(crate) async fn launch(&self, name: &str, seat: Seat) -> Result<Process, Loss> {
        let inner = &*self.inner;
        let id = PeerId::new(Role::Shard, name).map_err(|why| Loss::outside(why.to_string()))?;
        let identity = inner.desk.authority().identify(&id);
        let identity = identity.and_then(|identity| identity.to_bytes());
        let identity = identity.map_err(|why| Loss::outside(why.to_string()))?;
        let (arrived, arrival) = oneshot::channel();
        lock(&inner.awaited).insert(id.clone(), arrived);
        let _awaited = Awaited { inner, id };
        let (pid, mut exited, hold) = self.spawn(name, &seat, identity).await?;
        let came = tokio::select! {
            came = timeout(ARRIVAL, arrival) => came.ok().and_then(Result::ok),
            gone = exited.wait_for(Option::is_some) => {
                let gone = gone.ok().and_then(|exit| exit.as_ref().map(Loss::from));
                return Err(gone.unwrap_or_else(|| Loss::outside("its parent is gone")));
            }
        };
        let (peer, inbox) = came.ok_or_else(|| {
            Loss::outside(format!("process {pid} did not connect within {ARRIVAL:?}"))
        })?;
        let Seat { node, device, .. } = &seat;
        let whereabouts = Whereabouts { node: node.clone(), device: format!("cpu:{device}"), pid };
        Ok(Process { peer, whereabouts, seat, exited, _hold: hold, _inbox: inbox })
    }

    async fn spawn(
        &self,
        name: &str,
        seat: &Seat,
        identity: Vec<u8>,
    ) -> Result<(u32, watch::Receiver<Option<Exit>>, Hold), Loss> {
        let inner = &*self.inner;
        let Some(node) = inner.nodes.peer(&seat.node).map_err(Loss::no_seat)? else {
            let child = Child::spawn(&inner.program, name, inner.address, identity);
            let child =
                child.map_err(|why| Loss::outside(format!("cannot start a process: {why}")))?;
            return Ok((child.pid, child.exited.clone(), Hold::Here { _child: child }));
        };
        let spawn = Spawn { name: name.to_owned(), device: seat.device, identity };
        let runtime = self.runtime().clone();
        // In a task of its own: a process that nobody waits for any more is ended all the same.
        let (answer, answered) = oneshot::channel();
        self.runtime().spawn(async move {
            let who = node.id().clone();
            let hold = match node.call(NodeRequest::Spawn(spawn), SPAWN).await {
                Ok(NodeReply::Spawned { pid }) => Ok((pid, Hold::There { pid, node, runtime })),
                Ok(NodeReply::Failed(why)) => Err(Loss::outside(format!("{who}: {why}"))),
                Ok(_) => Err(Loss::outside(format!("{who}: an answer to another question"))),
                Err(why) => Err(Loss::no_seat(format!("{who}: {why}"))),
            };
            drop(answer.send(hold));
        });
        let answered = answered.await.unwrap_or_else(|_| Err(Loss::outside("the head stops")));
        let (pid, hold) = answered?;
        Ok((pid, inner.nodes.watch_process(&seat.node, pid), hold))
    }
}

/// Admits who is waited for, until the control plane is gone.
async fn receive(inner: std::sync::Weak<Inner>, mut arrivals: Arrivals) {
    while let Some(knock) = arrivals.next().await {
        let Some(inner) = inner.upgrade() else { return };
        match knock {
            // The link has logged it.
            Knock::TurnedAway(_) => {}
            Knock::Peer(arrival) => drop(tokio::spawn(admit(inner, *arrival))),
        }
    }
}

async fn admit(inner: Arc<Inner>, arrival: Arrival) {
    let (id, from) = (arrival.peer().clone(), arrival.from());
    let outcome = match id.role() {
        Role::Shard => match lock(&inner.awaited).remove(&id) {
            Some(awaited) => Ok(awaited),
            None => Err("the head has not started it, or gave it up".to_owned()),
        },
        Role::Node => {
            return match arrival.admit(Epoch(0)).await {
                Ok((peer, inbox)) => inner.nodes.welcome(peer, inbox, from).await,
                Err(why) => warn!("{id} from {from} was turned away: {why}"),
            };
        }
        Role::Head => Err("there is one head already, and this is it".to_owned()),
    };
    match outcome {
        Ok(awaited) => match arrival.admit(Epoch(0)).await {
            Ok(side) => drop(awaited.send(side)),
            Err(why) => warn!("{id} from {from} was turned away: {why}"),
        },
        Err(why) => {
            info!("{id} from {from} was turned away: {why}");
            arrival.refuse(Refusal::Unexpected(why)).await;
        }
    }
}

// === impl Process ===

impl Process {
    /// Whether it can be asked anything more.
    pub(crate) fn lives(&self) -> bool {
        self.exited.borrow().is_none() && self.peer.lost().borrow().is_none()
    }

    /// Waits until the process has ended or cannot be reached: why.
    pub(crate) async fn ended(&self) -> Loss {
        let (mut exited, mut lost) = (self.exited.clone(), self.peer.lost());
        let exit = async move {
            let exit = exited.wait_for(Option::is_some).await;
            exit.ok().and_then(|exit| exit.as_ref().map(Loss::from))
        };
        let gone = async {
            let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            // Its parent may know better why, and soon.
            tokio::time::sleep(LAST_WORDS).await;
            why.map(|why| Loss::outside(format!("process {}: {why}", self.whereabouts.pid)))
        };
        let why = tokio::select! { biased; why = exit => why, why = gone => why };
        why.unwrap_or_else(|| Loss::outside("its parent is gone"))
    }
}

// === impl Awaited ===

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        lock(&self.inner.awaited).remove(&self.id);
    }
}

// === impl Hold ===

impl Drop for Hold {
    fn drop(&mut self) {
        if let Self::There { pid, node, runtime } = self {
            let (pid, node) = (*pid, node.clone());
            runtime.spawn(async move { drop(node.call(NodeRequest::Kill { pid }, SPAWN).await) });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address under which processes of this machine find a socket.
fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip().is_unspecified() {
        false => bound,
        true if bound.is_ipv4() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bound.port()),
        true => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), bound.port()),
    }
}
