//! The loss of a machine, which the head detects by its ranks and its agent in any order.

use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{Cluster, HEAD, Overview, ReplicaState, ReplicaStatus, Whereabouts};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::machine::{Machine, World};
use super::{NODES, open};
use crate::life::fate::{Fate, LONG};

/// The maximum time from the silence of a machine to the next start of its rank: the idle timeout, one more
/// keep-alive, and a start.
const FAILOVER: Duration = Duration::from_millis(1250);

/// Starts a head and its nodes without any fault, and waits until all replicas serve.
async fn calm(seed: u64) -> (Cluster, Arc<World>, Vec<Arc<Machine>>) {
    let fate = Fate::new(seed);
    fate.calm_down();
    let (cluster, world) = open(seed, &fate).await;
    let machines = NODES.map(|(name, devices)| begin(&world, name, devices)).into();
    timeout(LONG, cluster.serving()).await.expect("nothing goes wrong").expect("they serve");
    (cluster, world, machines)
}

/// Starts a machine with an agent that is not told to stop.
pub(crate) fn begin(world: &Arc<World>, name: &str, devices: usize) -> Arc<Machine> {
    let machine = Machine::new(world, name);
    let (stop, stopped) = oneshot::channel();
    let agent = machine.agent(devices, stopped);
    tokio::spawn(async move {
        let _goes_on = stop;
        agent.await
    });
    machine
}

/// Returns the node of a replica of one rank.
fn node_of(replica: &ReplicaStatus) -> String {
    let Some(Whereabouts { node, .. }) = &replica.stages[0].shards[0].whereabouts else {
        panic!("it serves: {replica:?}")
    };
    node.clone()
}

/// Returns the replica whose rank is on a node.
fn remote(overview: &Overview) -> ReplicaStatus {
    let mut replicas = overview.status().replicas.into_iter();
    replicas.find(|it| node_of(it) != HEAD).expect("the head has one device")
}

/// Suspends the ranks of a machine, and its agent later or earlier by this number of milliseconds.
async fn lose(agent_after: i64) {
    let (cluster, world, machines) = calm(1).await;
    let overview = cluster.overview();
    let before = remote(&overview);
    let machine = machines.iter().find(|it| it.name == node_of(&before)).expect("one of them");
    let (ranks, agent) = (machine.ranks(), vec![machine.id()]);
    let pause = Duration::from_millis(agent_after.unsigned_abs());
    let (first, last) = if agent_after < 0 { (agent, ranks) } else { (ranks, agent) };
    world.suspend(first, None);
    sleep(pause).await;
    world.suspend(last, None);
    let silent = Instant::now();
    let back = |it: &ReplicaStatus| it.epoch > before.epoch && it.state == ReplicaState::Serving;
    loop {
        let replicas = overview.status().replicas;
        let now = replicas.iter().find(|it| it.id == before.id).expect("it stays");
        if back(now) {
            assert_ne!(node_of(now), machine.name, "agent after {agent_after} ms");
            assert_eq!(now.epoch.0, before.epoch.0 + 1, "agent after {agent_after} ms");
            break;
        }
        assert!(silent.elapsed() < LONG, "it comes back");
        sleep(Duration::from_millis(1)).await;
    }
    let took = silent.elapsed();
    assert!(took <= FAILOVER, "agent after {agent_after} ms: {took:?}");
    cluster.stop(LONG).await;
}

/// **ND-1**: a rank goes to another node, in the epoch after its loss, however much later or earlier than
/// that rank its machine is lost.
#[tokio::test(start_paused = true)]
async fn a_rank_does_not_go_back_to_a_machine_that_is_about_to_be_lost() {
    for agent_after in [-300, 0, 50, 200, 400, 700, 950] {
        lose(agent_after).await;
    }
}

/// The replica that the head's own device is not for, once `is` holds of it.
async fn other(overview: &Overview, is: impl Fn(&ReplicaStatus) -> bool) -> ReplicaStatus {
    let begun = Instant::now();
    loop {
        let replicas = overview.status().replicas;
        let here = |it: &ReplicaStatus| {
            let place = it.stages[0].shards[0].whereabouts.as_ref();
            place.is_some_and(|place| place.node == HEAD)
        };
        if let Some(found) = replicas.into_iter().find(|it| !here(it) && is(it)) {
            return found;
        }
        assert!(begun.elapsed() < LONG, "it comes to that");
        sleep(Duration::from_millis(1)).await;
    }
}

/// An epoch is a start of the ranks: a replica that waits for a device starts none, says what it waits for,
/// and goes on in the same epoch when the device comes.
#[tokio::test(start_paused = true)]
async fn a_replica_that_waits_for_a_device_stays_in_its_epoch() {
    const LONG_WAIT: Duration = Duration::from_secs(600);
    let fate = Fate::new(1);
    fate.calm_down();
    // The head has one device for two replicas.
    let (cluster, world) = open(1, &fate).await;
    let overview = cluster.overview();
    let waits = |it: &ReplicaStatus| it.waits_for.is_some();
    let first = other(&overview, waits).await;
    let what = first.waits_for.as_ref().expect("it waits");
    assert!(what.contains("the hardware has 0"), "{what}");
    sleep(LONG_WAIT).await;
    let still = other(&overview, waits).await;
    assert_eq!((still.epoch, still.state), (first.epoch, ReplicaState::Starting));

    let serves = |it: &ReplicaStatus| it.state == ReplicaState::Serving;
    let machine = begin(&world, "a", 1);
    let served = other(&overview, serves).await;
    assert_eq!((served.epoch, served.waits_for), (first.epoch, None));

    world.suspend(machine.hosts(), None);
    // At first it is not certain that the node is gone.
    let names_it = |it: &ReplicaStatus| {
        let what = it.waits_for.as_deref().unwrap_or_default();
        what.contains("node a, which had some, is not connected")
    };
    other(&overview, names_it).await;
    sleep(LONG_WAIT).await;
    let still = other(&overview, waits).await;
    assert_eq!(still.epoch.0, first.epoch.0 + 1, "one loss is one epoch");
    cluster.stop(LONG).await;
}
