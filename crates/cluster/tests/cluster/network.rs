//! The control plane over a network in memory, under a virtual clock: hundreds of short lives of a head,
//! its nodes and their rank processes, drawn by seeds. The head, the agents of the nodes and the rank
//! processes are the real ones, down to their connections; only engines and machines are played.
//!
//! Nodes join, crash, fall asleep, are cut off, lose packets, say goodbye and come back; rank processes
//! die, stop, go on, hang in a step or while loading, and cannot load; actors of the head panic; operators
//! scale, drain, divide anew, empty nodes, abort that and ask for it again. Then it gets calm.
//!
//! - **G1**, **G2** every request that is not given up gets all its tokens, once and in order.
//! - **G4** every operation ends, and what rests comes back.
//! - **G5** at the end nothing is held: no request, no block, no device, no process.
//! - **G7** the ranks of a group are of one epoch.
//!
//! The panic of a life that goes wrong has its seed; `PLAYHOUSE_SIMULATION_SEED` lives it again,
//! `PLAYHOUSE_SIMULATION_SEEDS` says how many lives there are (500, without optimization 50). A few seeds
//! take one of several courses, because tokio draws in which order it wakes those that wait for one watch
//! channel: with `RUSTFLAGS='--cfg tokio_unstable'` that is drawn from the same seed each time.

mod losses;
mod machine;
mod process;
mod restarts;

use std::future::ready;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Answer, Blueprint, Capacity, Change, Cluster, ControlConfig, ControlPlane,
    DeploymentConfig, Desired, ExpectedWeights, Ledger, Listener, MemoryNeeds, Overview, Phase,
    Policy, RankStarter, RemoteConfig, StartedRank, StepDeadline, WeightsProgress, processes,
};
use playhouse_link::{Authority, LinkConfig, Network, Revocations};
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, CheckpointDigest, ParallelSpec};
use playhouse_wire::{Dtype, Load};
use tokio::time::{sleep, timeout};

use crate::engines::scripted::{blueprint, layout, map};
use crate::life::audience::clients;
use crate::life::fate::{Fate, LONG};
use crate::life::lives::{alone, live_all};
use crate::life::mine::Mine;
use crate::life::operators::{draw_change, ended, idle, operators, repair};
use machine::{Machine, World, devices, head_id, lives};

const LIVES: u64 = if cfg!(debug_assertions) { 50 } else { 500 };

/// The number of devices of the head's own machine.
const DEVICES: usize = 1;
/// The names of all nodes, and the number of devices of each.
const NODES: [(&str, usize); 3] = [("a", 2), ("b", 2), ("c", 2)];

const LIMITS: Limits = Limits {
    max_num_seqs: 4,
    max_num_batched_tokens: 32,
    prefill_time: Duration::MAX,
    max_model_len: 256,
    kv_blocks: 24,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// The virtual time after which every fault of a node is over and the head has noticed it. Hung engines have
/// been ended by then, which costs their replicas another restart.
const AFTERMATH: Duration = Duration::from_secs(20);

/// Returns the blueprint of a replica whose ranks are processes of the machines.
fn replica(layout: &ParallelSpec, control: &ControlPlane, fate: &Arc<Fate>) -> Blueprint {
    let map = Arc::new(map(layout));
    let load = |at| Load {
        model: None,
        dtype: Dtype::Auto,
        share: map.share(&at),
        groups: map.group_kinds(),
        threads: 1,
    };
    let config = RemoteConfig {
        loads: map.ranks().map(load).collect(),
        memory: MemoryNeeds::none(LIMITS.kv_blocks),
        weights: ExpectedWeights { folder: None, digest: CheckpointDigest::default() },
        block_size: LIMITS.block_size,
        max_num_seqs: LIMITS.max_num_seqs as u32,
        map: Arc::clone(&map),
    };
    blueprint(layout, LIMITS, mined(processes(config, control.clone()), fate))
}

/// Returns a starter of ranks whose replica may panic when it ends a hung rank.
fn mined(ranks: RankStarter, fate: &Arc<Fate>) -> RankStarter {
    let fate = Arc::clone(fate);
    Arc::new(move |epoch, rank, sink| {
        let started = ranks(epoch, rank, sink)?;
        let handle = Arc::new(Mine::beside(Arc::clone(&started.handle), &fate));
        Ok(StartedRank { handle, ..started })
    })
}

/// Starts a head, and a world for its machines.
async fn open(seed: u64, fate: &Arc<Fate>) -> (Cluster, Arc<World>) {
    let world = World::new(Arc::clone(fate), Network::new(seed));
    let own = Machine::new(&world, "the head's own");
    (start(&own, Arc::new(Ledger::in_memory())).await, world)
}

/// Starts a head on the machine `own`, in the place of an earlier head if there was one.
async fn start(own: &Arc<Machine>, ledger: Arc<Ledger>) -> Cluster {
    let world = &own.world;
    let bound = world.network.endpoint(&head_id(), world.number(), LinkConfig::default());
    let control = ControlPlane::start(ControlConfig {
        listener: Listener::over(bound).expect("an address"),
        authority: Authority::new().expect("an authority"),
        children: own.children(),
        devices: devices(DEVICES),
        admits_nodes: true,
        revocations: Revocations::default(),
        keep_revocations: Box::new(|_| Ok(())),
        tell_renewal: Arc::new(|_| {}),
    });
    let (of_replicas, fate) = (control.clone(), Arc::clone(&world.fate));
    let config = DeploymentConfig {
        desired: Desired { replicas: 2, layout: layout(1, 1) },
        blueprints: Arc::new(move |layout| {
            Box::pin(ready(Ok(replica(&layout, &of_replicas, &fate))))
        }),
        limits: LIMITS,
        weights: WeightsProgress::default(),
        ledger,
        control: Some(control),
        devices: 0,
        step_deadline: StepDeadline::Fixed(Duration::from_secs(5)),
        policy: Policy::default(),
        admission: AdmissionLimits {
            requests: Capacity::Fixed(64),
            prompt_tokens: 1 << 16,
            no_capacity_timeout: LONG,
        },
        vocab: 1 << 16,
        shared_prompt_max: usize::MAX,
        metrics: Arc::new(Metrics::new("simulation")),
    };
    Cluster::start(config).await.expect("the cluster starts")
}

/// Draws a change of nodes or of replicas.
fn draw(fate: &Fate) -> Change {
    let node = NODES[fate.below(3) as usize].0.to_owned();
    match fate.below(9) {
        0 | 1 => Change::DrainNode { node, deadline: fate.millis(0..200), force: false },
        2 => Change::UndrainNode { node },
        3 => Change::RemoveNode { node },
        _ => draw_change(fate),
    }
}

async fn done(overview: &Overview, change: Change) {
    let what = format!("{change:?}");
    match overview.change(change, None, false).await {
        Ok(Answer::Accepted(operation)) => {
            assert_eq!(ended(overview, operation.id).await, Phase::Done, "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// Waits until all nodes are back, and lets them have ranks again.
async fn gather(overview: &Overview) {
    sleep(AFTERMATH).await;
    for (node, _) in NODES {
        done(overview, Change::UndrainNode { node: node.to_owned() }).await;
    }
    let all = DEVICES.min(1) + NODES.len();
    while overview.status().nodes.iter().filter(|node| node.connected).count() < all {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Places a replica on every device (**G5**), and waits until no other process is left.
async fn fill(overview: &Overview, world: &World) {
    let devices = DEVICES + NODES.iter().map(|(_, devices)| devices).sum::<usize>();
    let replicas = Some(devices as u32);
    let change = Change::Deployment { replicas, layout: Some(layout(1, 1)), force: true };
    done(overview, change).await;
    while world.live.load(Ordering::Relaxed) != devices {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Simulates one cluster and returns the course that it took.
async fn live(seed: u64) -> u64 {
    let fate = Fate::new(seed);
    let (cluster, world) = open(seed, &fate).await;
    let (overview, door) = (cluster.overview(), cluster.front_door().clone());
    for (name, devices) in NODES {
        let (world, late) = (Arc::clone(&world), fate.millis(0..4000));
        tokio::spawn(async move {
            sleep(late).await;
            lives(world, name, devices).await;
        });
    }
    let requests = tokio::spawn(clients(Arc::clone(&fate), door.clone(), 1000));
    let changes = tokio::spawn(operators(Arc::clone(&fate), overview.clone(), draw, 2000));
    changes.await.unwrap_or_else(|why| resume_unwind(why.into_panic()));
    fate.calm_down();
    timeout(LONG, gather(&overview)).await.expect("every node comes back");
    repair(&overview).await;
    requests.await.unwrap_or_else(|why| resume_unwind(why.into_panic()));
    timeout(LONG, idle(&overview)).await.expect("G5: what is over holds nothing");
    assert_eq!(door.in_flight(), 0, "G5: every permit is back");
    if timeout(LONG, fill(&overview, &world)).await.is_err() {
        let live = world.live.load(Ordering::Relaxed);
        let (status, last) = (overview.status(), overview.operations().pop());
        panic!("G5: a device or one of {live} processes is held: {status:#?} {last:#?}");
    }
    assert_eq!(cluster.stop(LONG).await, 0, "G4: a drain loses nothing");
    world.judge();
    fate.course()
}

#[test]
fn every_life_of_a_cluster_on_a_network_keeps_its_promises() {
    live_all(LIVES, |seed| {
        alone(live(seed));
    });
}
