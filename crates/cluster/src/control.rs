//! The head's end of the control plane: which peers may connect, and the processes of ranks.

mod refusal;
mod reunion;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use playhouse_link::{
    Arrival, Arrivals, Authority, CallError, Endpoint, Enrollment, Inbox, JoinToken,
    KeepRevocations, Knock, Peer, Revocations, TellRenewal,
};
use playhouse_types::Epoch;
use playhouse_wire::{Exit, NodeReply, NodeRequest, PeerId, Refusal, Role, Spawn};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

pub use self::refusal::{NoToken, NotRevoked};

use self::reunion::Reunion;
use crate::child::{Child, ChildStarter};
use crate::head::Listener;
use crate::nodes::{Assignment, Device, Nodes};
use crate::rank::Loss;
use crate::status::{NodeStatus, Whereabouts};
use crate::tasks::{TASKS_END_MAX, Tasks};

/// How long a started process may take to connect. It only has to start and to shake hands.
const ARRIVAL: Duration = Duration::from_secs(10);

/// How long a node may take to start a process.
const SPAWN: Duration = Duration::from_secs(10);

/// The configuration of the control plane: where the head listens, and with what it runs ranks.
pub struct ControlConfig {
    /// The socket to which nodes and rank processes connect.
    pub listener: Listener,
    /// Signs the certificates of peers that may connect.
    pub authority: Authority,
    /// Starts the processes of ranks on this machine.
    pub children: ChildStarter,
    /// Devices of this machine that ranks use.
    pub devices: Vec<Device>,
    /// Whether nodes with a join token may join.
    pub admits_nodes: bool,
    /// The certificates of nodes that were revoked.
    pub revocations: Revocations,
    /// Writes the revocations down when there are more.
    pub keep_revocations: KeepRevocations,
    /// Is told when a certificate was renewed, or could not be.
    pub tell_renewal: TellRenewal,
}

/// How long the parent of a lost process may take to say how the process ended.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The head's end of the control plane. Dropping the last clone ends it.
#[derive(Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    address: SocketAddr,
    enrollment: Arc<Enrollment>,
    admits_nodes: bool,
    children: ChildStarter,
    nodes: Nodes,
    /// The number of the next rank process, counted from the incarnation of this head.
    launches: AtomicU64,
    awaited: Mutex<HashMap<PeerId, oneshot::Sender<Side>>>,
    reunion: Reunion,
    tasks: Tasks,
}

/// A peer and the inbox of its requests.
type Side = (Peer, Inbox);

/// A connected rank process. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) peer: Peer,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) assignment: Assignment,
    /// Becomes `Some` when the process has ended.
    exited: watch::Receiver<Option<Exit>>,
    _hold: Hold,
    _inbox: Inbox,
}

/// An entry in the list of awaited processes, for as long as a launch waits.
struct AwaitedProcess<'a> {
    inner: &'a Inner,
    id: PeerId,
}

/// The hold on a process that keeps the process alive.
#[derive(Debug)]
enum Hold {
    Here { _child: Child },
    There { pid: u32, node: String, control: Weak<Inner> },
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts to admit processes. Must be called on the runtime that is to drive them.
    #[must_use]
    pub fn start(config: ControlConfig) -> Self {
        let ControlConfig { listener, authority, children, devices, admits_nodes, .. } = config;
        let Listener { endpoint, arrivals, address } = listener;
        let enrollment =
            Arc::new(Enrollment::new(authority, config.revocations, config.keep_revocations));
        enrollment.tell_renewals(config.tell_renewal);
        // Without nodes as well: rank processes renew theirs.
        endpoint.admit_nodes(Arc::clone(&enrollment));
        let nodes = Nodes::new(devices);
        let (awaited, reunion) = Default::default();
        let tasks = Tasks::default();
        let inner = Inner {
            launches: AtomicU64::new(endpoint.incarnation()),
            endpoint,
            address,
            enrollment,
            admits_nodes,
            children,
            nodes,
            awaited,
            reunion,
            tasks,
        };
        let inner = Arc::new(inner);
        let nodes = Arc::downgrade(&inner);
        inner
            .enrollment
            .reserve(move |name| nodes.upgrade().is_some_and(|it| it.nodes.waits_for(name)));
        inner.tasks.spawn(receive(Arc::downgrade(&inner), arrivals));
        Self { inner }
    }

    /// Returns the address at which the head listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Returns the machines that ranks can run on.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.inner.nodes
    }

    /// Returns the status of each node.
    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        self.inner.nodes.statuses()
    }

    /// Returns the expiry of the head's certificate, and the earliest expiry of a connected node's
    /// certificate.
    pub(crate) fn certificate_ends(&self) -> [Option<SystemTime>; 2] {
        let nodes = self.statuses().into_iter().filter(|node| node.connected);
        let ends = nodes.filter_map(|node| self.inner.enrollment.certificate_end(&node.name));
        [self.inner.endpoint.good_until(), ends.min()]
    }

    /// Creates a token with which one node can join within `ttl`.
    ///
    /// # Errors
    /// See [`NoToken`].
    pub fn create_token(&self, ttl: Duration) -> Result<JoinToken, NoToken> {
        if !self.inner.admits_nodes {
            return Err(NoToken::NotListening);
        }
        self.inner.enrollment.issue(ttl).map_err(|why| NoToken::Failed(why.to_string()))
    }

    /// Completes when the token lets no node join any more.
    pub async fn until_spent(&self, token: &JoinToken) {
        self.inner.enrollment.until_spent(token).await;
    }

    /// Cuts a node off and refuses its certificate from now on. Returns whether the node was connected.
    pub(crate) fn revoke(&self, node: &str) -> Result<bool, NotRevoked> {
        if !self.inner.admits_nodes {
            return Err(NotRevoked::NotListening);
        }
        PeerId::new(Role::Node, node).map_err(|why| NotRevoked::BadName(why.to_string()))?;
        self.inner.enrollment.revoke(node).map_err(|why| NotRevoked::NotKept(why.to_string()))?;
        Ok(self.inner.nodes.cut_off(node))
    }

    /// Returns the runtime of the connections, for tasks that pass messages on.
    pub(crate) fn runtime(&self) -> &Handle {
        self.inner.endpoint.runtime()
    }

    /// Returns the tasks that run until the connections have ended.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// Ends all connections, tells the peers why, and waits for the tasks that depend on connections.
    pub(crate) async fn shut_down(&self) {
        self.inner.endpoint.shut_down("the head stops").await;
        let tasks = self.inner.tasks.ended(TASKS_END_MAX).await;
        if tasks > 0 {
            warn!(tasks, "tasks of connections have not ended within {TASKS_END_MAX:?}");
        }
    }

    /// Returns a number that no rank process of this head or of an earlier one has.
    pub(crate) fn next_launch(&self) -> u64 {
        self.inner.launches.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts the process of a rank on its assigned device, and waits until it has connected.
    pub(crate) async fn launch(&self, name: &str, assignment: Assignment) -> Result<Process, Loss> {
        let inner = &*self.inner;
        let id = PeerId::new(Role::Shard, name).map_err(|why| Loss::outside(why.to_string()))?;
        let identity = inner.enrollment.authority().identify(&id);
        let identity = identity.and_then(|identity| identity.to_bytes());
        let identity = identity.map_err(|why| Loss::outside(why.to_string()))?;
        let (arrived, arrival) = oneshot::channel();
        inner.awaited.lock().insert(id.clone(), arrived);
        let _awaited = AwaitedProcess { inner, id };
        let (pid, mut exited, hold) = self.spawn(name, &assignment, identity).await?;
        let came = tokio::select! {
            biased;
            came = timeout(ARRIVAL, arrival) => came.ok().and_then(Result::ok),
            gone = exited.wait_for(Option::is_some) => {
                let gone = gone.ok().and_then(|exit| exit.as_ref().map(Loss::from));
                return Err(gone.unwrap_or_else(|| Loss::outside("its parent is gone")));
            }
            () = inner.nodes.until_lost(&assignment.node) => {
                return Err(Loss::no_device(format!("node {} was lost", assignment.node)));
            }
        };
        let (peer, inbox) = came.ok_or_else(|| {
            Loss::outside(format!("process {pid} did not connect within {ARRIVAL:?}"))
        })?;
        let whereabouts = assignment.whereabouts(pid);
        Ok(Process { peer, whereabouts, assignment, exited, _hold: hold, _inbox: inbox })
    }

    async fn spawn(
        &self,
        name: &str,
        assignment: &Assignment,
        identity: Vec<u8>,
    ) -> Result<(u32, watch::Receiver<Option<Exit>>, Hold), Loss> {
        let inner = &*self.inner;
        let Some(node) = inner.nodes.peer(&assignment.node).map_err(Loss::no_device)? else {
            let child = (inner.children)(name, &inner.address.into(), identity);
            let child =
                child.map_err(|why| Loss::outside(format!("cannot start a process: {why}")))?;
            return Ok((child.pid, child.exited.clone(), Hold::Here { _child: child }));
        };
        let spawn = Spawn { name: name.to_owned(), device: assignment.device, identity };
        let (name, control) = (assignment.node.clone(), Arc::downgrade(&self.inner));
        // In a task of its own: a process whose launch was given up is ended all the same.
        let (answer, answered) = oneshot::channel();
        let _starting = inner.nodes.starts_process(&assignment.node);
        inner.tasks.join_on(self.runtime(), async move {
            let who = node.id().clone();
            let hold = match node.call(NodeRequest::Spawn(spawn), SPAWN).await {
                Ok(NodeReply::Spawned { pid }) => {
                    Ok((pid, Hold::There { pid, node: name, control }))
                }
                Ok(NodeReply::Failed(why)) => Err(Loss::outside(format!("{who}: {why}"))),
                Ok(_) => Err(Loss::outside(format!("{who}: an answer to another question"))),
                Err(why) => Err(Loss::no_device(format!("{who}: {why}"))),
            };
            drop(answer.send(hold));
        });
        let answered = answered.await.unwrap_or_else(|_| Err(Loss::outside("the head stops")));
        let (pid, hold) = answered?;
        Ok((pid, inner.nodes.watch_process(&assignment.node, pid), hold))
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { address, nodes, .. } = &*self.inner;
        let mut control = f.debug_struct("ControlPlane");
        control.field("address", address).field("nodes", nodes).finish_non_exhaustive()
    }
}

/// Admits the processes that launches wait for, until the control plane is dropped.
async fn receive(inner: Weak<Inner>, mut arrivals: Arrivals) {
    while let Some(knock) = arrivals.next().await {
        let Some(inner) = inner.upgrade() else { return };
        match knock {
            // The link has logged it.
            Knock::TurnedAway(_) => {}
            Knock::Peer(arrival) => {
                let tasks = inner.tasks.clone();
                tasks.spawn(admit(inner, *arrival));
            }
        }
    }
}

async fn admit(inner: Arc<Inner>, arrival: Arrival) {
    let (id, from) = (arrival.peer().clone(), arrival.from());
    let awaited = inner.awaited.lock().remove(&id);
    let outcome = match id.role() {
        Role::Shard => match awaited {
            Some(awaited) => Ok(awaited),
            None if inner.reunion.is_open() => {
                return match arrival.admit(Epoch(0)).await {
                    Ok(side) => inner.reunion.arrived(side),
                    Err(why) => warn!("{id} from {from} was turned away: {why}"),
                };
            }
            None => Err("the head has not started it, or gave it up".to_owned()),
        },
        Role::Node => {
            return match arrival.admit(Epoch(0)).await {
                Ok((peer, inbox)) => {
                    let offered = |running| inner.offered(running, id.name());
                    inner.nodes.welcome(peer, inbox, from, offered).await;
                }
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
    /// Returns whether the process can still be asked.
    pub(crate) fn lives(&self) -> bool {
        self.exited.borrow().is_none() && self.peer.lost().borrow().is_none()
    }

    /// Ends the process, from now on. The future completes when the process has ended (**A14**), or when
    /// its node, one of `nodes`, is out of reach: then its device stays taken until the node is back and
    /// has ended the process.
    pub(crate) fn end(self, nodes: &Nodes) -> impl Future<Output = ()> + use<> {
        let Self { assignment, mut exited, _hold, _inbox, peer, .. } = self;
        // This connection: the node may have come back under another one by the time of the answer.
        let parent = nodes.peer(&assignment.node);
        drop((_hold, _inbox, peer));
        async move {
            let exit = exited.wait_for(Option::is_some);
            match parent {
                Ok(None) => drop(exit.await),
                Ok(Some(node)) => tokio::select! {
                    _ = exit => {}
                    _ = node.until_lost() => {}
                },
                Err(_) => {}
            }
        }
    }

    /// Waits until the process has ended or cannot be reached, and returns the reason. Its node is one
    /// of `nodes`.
    pub(crate) async fn ended(&self, nodes: &Nodes) -> Loss {
        let mut exited = self.exited.clone();
        let exit = async move {
            let exit = exited.wait_for(Option::is_some).await;
            exit.ok().and_then(|exit| exit.as_ref().map(Loss::from))
        };
        let gone = async {
            let why = self.peer.until_lost().await;
            // Its parent may know better why, and soon, unless it is gone as well.
            drop(timeout(LAST_WORDS, nodes.until_lost(&self.assignment.node)).await);
            Some(Loss::outside(format!("process {}: {why}", self.whereabouts.pid)))
        };
        let why = tokio::select! { biased; why = exit => why, why = gone => why };
        why.unwrap_or_else(|| Loss::outside("its parent is gone"))
    }
}

// === impl AwaitedProcess ===

impl Drop for AwaitedProcess<'_> {
    fn drop(&mut self) {
        self.inner.awaited.lock().remove(&self.id);
    }
}

// === impl Hold ===

impl Drop for Hold {
    fn drop(&mut self) {
        let Self::There { pid, node, control } = self else { return };
        let Some(control) = control.upgrade() else { return };
        // A node that is away now offers the process when it is back, and no rank will hold it.
        let Some(peer) = control.nodes.ask_to_end(node, *pid) else { return };
        let (pid, node, weak) = (*pid, std::mem::take(node), Arc::downgrade(&control));
        let kill = async move {
            if let Err(CallError::Lost(_)) = peer.call(NodeRequest::Kill { pid }, SPAWN).await {
                // The call may see the loss a little earlier than the other watchers of the node.
                peer.until_lost().await;
            }
            if let Some(control) = weak.upgrade() {
                control.nodes.answered(&node, pid);
            }
        };
        control.tasks.join_on(control.endpoint.runtime(), kill);
    }
}
