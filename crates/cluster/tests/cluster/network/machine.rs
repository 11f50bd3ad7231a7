//! Machines of a cluster on a network in memory: they join, crash, are cut off, say goodbye and come
//! back, as their fate will have it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use playhouse_cluster::{ChildStarter, Device, HEAD, NodeConfig, NodeError, Way, run_node};
use playhouse_link::{LinkConfig, Network};
use playhouse_types::Epoch;
use playhouse_wire::{Member, PeerId, Role};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::process;
use crate::life::fate::Fate;

/// The state that all machines of a simulation share.
pub(crate) struct World {
    pub(crate) fate: Arc<Fate>,
    pub(crate) network: Network,
    /// The address at which the head listens.
    pub(crate) head: SocketAddr,
    /// Rank processes that live.
    pub(crate) live: AtomicUsize,
    started: AtomicU64,
    /// The members of each group of each epoch.
    groups: Mutex<BTreeMap<(String, Epoch), Vec<Member>>>,
    accusations: Mutex<Vec<String>>,
}

/// A machine from its start until it goes down.
pub(crate) struct Machine {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    down: watch::Sender<bool>,
    way: Mutex<Wires>,
}

/// The agent of a machine and its ranks, and the cable they share.
#[derive(Default)]
struct Wires {
    hosts: Vec<PeerId>,
    /// Shares that are lost: to the head, and from it.
    loss: [f64; 2],
    delay: Duration,
}

pub(crate) fn head_id() -> PeerId {
    PeerId::new(Role::Head, HEAD).expect("a good name")
}

pub(crate) fn devices(count: usize) -> Vec<Device> {
    vec![Device { memory_bytes: 1 << 30, threads: 1 }; count]
}

// === impl World ===

impl World {
    pub(crate) fn new(fate: Arc<Fate>, network: Network) -> Arc<Self> {
        let (live, started, groups, accusations) = Default::default();
        let (endpoint, _) = network.endpoint(&head_id(), 0, LinkConfig::default());
        let head = endpoint.local_addr().expect("an address");
        Arc::new(Self { fate, network, head, live, started, groups, accusations })
    }

    /// Grows with every process that starts.
    pub(crate) fn number(&self) -> u64 {
        self.started.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Processes stand still, as by a signal: until they are killed, or go on with what they knew.
    pub(crate) fn suspend(self: &Arc<Self>, hosts: Vec<PeerId>, wake: Option<Duration>) {
        hosts.iter().for_each(|host| self.network.suspend(host));
        let Some(wake) = wake else { return };
        let world = Arc::clone(self);
        tokio::spawn(async move {
            sleep(wake).await;
            hosts.iter().for_each(|host| world.network.resume(host));
        });
    }

    /// When a process that stands still goes on, if it does.
    pub(crate) fn draw_wake(&self) -> Option<Duration> {
        let wake = self.fate.millis(20..5000);
        (self.fate.below(2) == 0).then_some(wake)
    }

    /// **G7** all ranks of a group agree on who is in it.
    pub(crate) fn meets(&self, group: (String, Epoch), members: &[Member]) {
        let mut groups = self.groups.lock().expect("nobody panics");
        let known = groups.entry(group.clone()).or_insert_with(|| members.to_vec());
        if known != members {
            self.accuse(format!("G7: {group:?} has two sets of members"));
        }
    }

    /// Said on a task that nobody waits for.
    pub(crate) fn accuse(&self, what: String) {
        self.accusations.lock().expect("nobody panics").push(what);
    }

    pub(crate) fn judge(&self) {
        let accusations = self.accusations.lock().expect("nobody panics");
        assert!(accusations.is_empty(), "{accusations:#?}");
    }
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(world: &Arc<World>, name: &str) -> Arc<Self> {
        let (name, down) = (name.to_owned(), watch::Sender::new(false));
        Arc::new(Self { world: Arc::clone(world), name, down, way: Mutex::default() })
    }

    /// Starts rank processes here.
    pub(crate) fn children(self: &Arc<Self>) -> ChildStarter {
        let machine = Arc::clone(self);
        Arc::new(move |_, _, identity| process::start(&machine, &identity))
    }

    /// Returns the id of the machine's agent.
    pub(crate) fn id(&self) -> PeerId {
        PeerId::new(Role::Node, &self.name).expect("a good name")
    }

    /// Its agent, until it is told to stop.
    pub(crate) fn agent(
        self: &Arc<Self>,
        offered: usize,
        stopped: oneshot::Receiver<()>,
    ) -> impl Future<Output = Result<(), NodeError>> + use<> {
        let (Self { world, .. }, id) = (&**self, self.id());
        let bound = world.network.endpoint(&id, world.number(), LinkConfig::default());
        self.connect(&id);
        let config = NodeConfig {
            way: Way::over(bound, world.head.into()),
            children: self.children(),
            devices: devices(offered),
            memory_bytes: 1 << 40,
            joined: watch::Sender::default(),
            keep: Arc::new(|_| Ok(())),
        };
        run_node(config, async { drop(stopped.await) })
    }

    /// Its processes, of now and of before.
    pub(crate) fn hosts(&self) -> Vec<PeerId> {
        self.way.lock().expect("nobody panics").hosts.clone()
    }

    /// Those of ranks.
    pub(crate) fn ranks(&self) -> Vec<PeerId> {
        self.hosts().into_iter().filter(|host| host.role() == Role::Shard).collect()
    }

    /// One more process uses the cable.
    pub(crate) fn connect(&self, host: &PeerId) {
        self.way.lock().expect("nobody panics").hosts.push(host.clone());
        self.lay();
    }

    /// Its power fails.
    pub(crate) fn go_down(&self) {
        self.down.send_replace(true);
    }

    /// Waits until it has no power.
    pub(crate) async fn down(&self) {
        drop(self.down.subscribe().wait_for(|down| *down).await);
    }

    fn wire(&self, loss: [f64; 2], delay: Duration) {
        let mut way = self.way.lock().expect("nobody panics");
        (way.loss, way.delay) = (loss, delay);
        drop(way);
        self.lay();
    }

    fn lay(&self) {
        let Wires { hosts, loss: [there, back], delay } = &*self.way.lock().expect("nobody panics");
        for host in hosts {
            self.world.network.drop(host, &head_id(), *there);
            self.world.network.drop(&head_id(), host, *back);
            self.world.network.delay(host, &head_id(), *delay);
            self.world.network.delay(&head_id(), host, *delay);
        }
    }
}

/// A node goes through its lives, until the test ends.
pub(crate) async fn lives(world: Arc<World>, name: &str, offered: usize) {
    loop {
        let machine = Machine::new(&world, name);
        life(&machine, offered).await;
        world.network.crash(&machine.id());
        sleep(world.fate.millis(0..3000)).await;
    }
}

/// One start of a node, and what becomes of it.
async fn life(machine: &Arc<Machine>, offered: usize) {
    let Machine { world, .. } = &**machine;
    let fate = &world.fate;
    let (stop, stopped) = oneshot::channel::<()>();
    let mut agent = tokio::spawn(machine.agent(offered, stopped));
    let mut stop = Some(stop);
    while !agent.is_finished() {
        tokio::select! {
            biased;
            // The head does not let it in, or cannot be found.
            _ = &mut agent => break,
            () = sleep(fate.millis(100..1500)) => {}
        }
        let (lost, for_a_while) = (fate.below(4), fate.millis(20..3500));
        match fate.below(7) {
            _ if !fate.strikes(2) => {}
            0 => {
                agent.abort();
                break;
            }
            1 => {
                stop.take();
                drop((&mut agent).await);
                break;
            }
            2 | 3 => {
                let loss = if lost == 0 { [1.0, 0.0] } else { [1.0, 1.0] };
                machine.wire(if lost == 1 { [0.0, 1.0] } else { loss }, Duration::ZERO);
                sleep(for_a_while).await;
            }
            4 => {
                machine.wire([0.2, 0.2], fate.millis(1..20));
                sleep(for_a_while).await;
            }
            5 => {
                // The agent stands still as well, and what it knows is old when it goes on.
                world.suspend(machine.hosts(), Some(for_a_while));
                sleep(for_a_while).await;
            }
            _ => {
                let mut ranks = machine.ranks();
                if !ranks.is_empty() {
                    let rank = ranks.swap_remove(fate.below(ranks.len() as u64) as usize);
                    world.suspend(vec![rank], world.draw_wake());
                }
                continue;
            }
        }
        machine.wire([0.0, 0.0], Duration::ZERO);
    }
    machine.go_down();
}
