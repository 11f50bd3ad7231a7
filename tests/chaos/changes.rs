//! Operators change what runs while something is lost (**G1**, **G4**).

use crate::rig::cluster::{At, Cluster};
use crate::rig::fault::Fault;
use crate::rig::load::DEMO;
use crate::rig::patience::wait_until;
use crate::scenario::Scenario;

const FIRST: At = At { replica: 0, stage: 0, tensor: 0 };

/// Makes a change in the midst of the load, with a fault while it is being made.
fn change_with(scenario: &mut Scenario, words: &[&str], fault: &Fault) {
    let status = scenario.during_the_load(|cluster| {
        let mut operator = cluster.operate(words);
        fault.strike(cluster);
        operator.end()
    });
    assert!(status.success(), "{words:?}");
}

/// A rank dies while replicas are added, and while they leave.
#[test]
fn a_rank_dies_while_the_cluster_grows_and_shrinks() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["--devices", "cpu:3"]));
    let (grow, shrink) = (["scale", "dp", "3", "--wait"], ["scale", "dp", "1", "--wait"]);
    for _ in 0..2 {
        change_with(&mut scenario, &grow, &Fault::KillShard(FIRST));
        scenario.goes_on();
        assert_eq!(scenario.cluster.states(), ["serving"; 3]);
        change_with(&mut scenario, &shrink, &Fault::KillShard(FIRST));
        scenario.goes_on();
        assert_eq!(scenario.cluster.states(), ["serving"]);
    }
    scenario.close();
}

/// One replica is drained while the other one dies whole: who runs is parked until it is back.
#[test]
fn the_only_other_replica_dies_during_a_drain() {
    let layout = ["-tp", "2", "-dp", "2"];
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &layout));
    let drain = ["drain", "replica", "1", "--deadline", "0s", "--wait"];
    change_with(&mut scenario, &drain, &Fault::KillReplica(0));
    let restart = ["restart", "replica", "1", "--wait"];
    assert!(scenario.cluster.operate(&restart).end().success());
    scenario.goes_on();
    scenario.close();
}

/// A node is drained onto a third one, while the replica of the second loses a rank.
#[test]
fn a_rank_dies_while_a_node_is_drained() {
    let cluster = Cluster::of_nodes(&DEMO, &["-tp", "2", "-dp", "2"], 3);
    let mut scenario = Scenario::open(&DEMO, cluster);
    let home = (0..3).find(|node| scenario.cluster.replicas_on(*node) == [0]);
    let node = format!("node-{}", home.expect("it has a node of its own"));
    let drain = ["drain", "node", &node, "--deadline", "1s", "--wait"];
    let other = Fault::KillShard(At { replica: 1, stage: 0, tensor: 0 });
    change_with(&mut scenario, &drain, &other);
    scenario.goes_on();
    assert_eq!(scenario.cluster.states(), ["serving"; 2]);
    scenario.close();
}

/// A node dies while a replica starts there. It comes back, and the change is made.
#[test]
fn a_node_dies_while_the_cluster_grows() {
    let mut scenario = Scenario::open(&DEMO, Cluster::of_nodes(&DEMO, &["-tp", "2"], 2));
    let spare = if scenario.cluster.replicas_on(0).is_empty() { 0 } else { 1 };
    let status = scenario.during_the_load(|cluster| {
        let mut operator = cluster.operate(&["scale", "dp", "2", "--wait"]);
        wait_until("it has begun", || cluster.states().len() == 2);
        Fault::KillNode(spare).strike(cluster);
        wait_until("it is missed", || !cluster.is_connected(spare));
        Fault::KillNode(spare).heal(cluster);
        operator.end()
    });
    assert!(status.success(), "it grows{}", scenario.cluster.logs());
    scenario.goes_on();
    assert_eq!(scenario.cluster.states(), ["serving"; 2]);
    scenario.close();
}

/// Restarts after which the head has had everything in its memory that it needs for one.
const WARM_UP: usize = 25;

/// Readings at each end whose median is compared: a single one moves by two MiB with what the allocator
/// happens to keep.
const READINGS: usize = 25;

/// By what the medians may differ.
const GROWTH_KIB: u64 = 2 << 10;

/// However often a replica restarts, the head occupies as much as before. `PLAYHOUSE_CHAOS_RESTARTS=300` has
/// it restart more often.
#[test]
fn restarts_leave_nothing_in_the_memory_of_the_head() {
    let restarts = std::env::var("PLAYHOUSE_CHAOS_RESTARTS");
    let restarts = restarts.map_or(3 * READINGS, |count| count.parse().expect("a number"));
    let scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-tp", "2"]));
    let restart = || {
        let words = ["restart", "replica", "0", "--wait"];
        assert!(scenario.cluster.operate(&words).end().success(), "{}", scenario.cluster.logs());
        scenario.cluster.resident_kib()
    };
    for _ in 0..WARM_UP {
        restart();
    }
    let readings: Vec<u64> = (0..restarts.max(2 * READINGS)).map(|_| restart()).collect();
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    let first = median(&readings[..READINGS]);
    let last = median(&readings[readings.len() - READINGS..]);
    println!("the head occupied {first} KiB at first and {last} KiB after {restarts} restarts");
    assert!(last <= first + GROWTH_KIB, "{readings:?}");
    scenario.goes_on();
    scenario.close();
}
