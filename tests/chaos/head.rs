//! The head dies, with and without others, and comes back (**G2**, **G5**, **G7**).

use crate::rig::cluster::{At, Cluster};
use crate::rig::fault::Fault;
use crate::rig::load::DEMO;
use crate::scenario::Scenario;

/// Two nodes with a replica each.
fn a_replica_on_each_node() -> Scenario {
    let cluster = Cluster::of_nodes(&DEMO, &["-tp", "2", "-dp", "2"], 2);
    assert_ne!(cluster.replicas_on(0), cluster.replicas_on(1), "each has its node");
    Scenario::open(&DEMO, cluster)
}

fn pids(cluster: &Cluster) -> [Vec<u32>; 2] {
    [0, 1].map(|replica| cluster.shards_of(replica))
}

/// **G7**: all ranks go on under the next head, in epochs that there never were.
#[test]
fn the_head_dies_twice_and_every_rank_goes_on() {
    let mut scenario = a_replica_on_each_node();
    let before = pids(&scenario.cluster);
    for epoch in 2..4 {
        scenario.outlives_its_head(&[]);
        assert_eq!(pids(&scenario.cluster), before, "the same processes");
        assert_eq!(scenario.cluster.epochs(), [epoch; 2]);
    }
    scenario.close();
}

/// The other rank of its replica waits for its successor, and the other replica for nobody.
#[test]
fn a_rank_dies_with_the_head() {
    let mut scenario = a_replica_on_each_node();
    let before = pids(&scenario.cluster);
    let dead = At { replica: 1, stage: 0, tensor: 0 };
    scenario.outlives_its_head(&[Fault::KillShard(dead)]);
    let after = pids(&scenario.cluster);
    assert_eq!(after[0], before[0], "who lives is taken over");
    assert_eq!(after[1][1], before[1][1], "with one rank of two, too");
    assert_ne!(after[1][0], before[1][0]);
    scenario.close();
}

/// A node that hangs is not waited for, and has to do what it is told once it wakes up: end.
#[test]
fn a_node_hangs_when_the_head_dies() {
    let mut scenario = a_replica_on_each_node();
    let before = pids(&scenario.cluster);
    let here = scenario.cluster.replicas_on(0)[0];
    scenario.outlives_its_head(&[Fault::FreezeNode(1)]);
    assert_eq!(pids(&scenario.cluster)[here], before[here], "who lives is taken over");
    scenario.close();
}

/// What the journal still holds is what a crash leaves of it: the last record may be torn.
#[test]
fn the_journal_is_torn_when_the_head_dies() {
    let mut scenario = a_replica_on_each_node();
    let before = pids(&scenario.cluster);
    for _ in 0..2 {
        scenario.outlives_its_head_while(&[], Cluster::tear_journal);
        assert_eq!(pids(&scenario.cluster), before, "the same processes");
    }
    let logs = scenario.cluster.logs();
    assert!(logs.contains("the journal was damaged"), "it is said: {logs}");
    scenario.close();
}

/// **G4**: streams end as they would have, whoever else asks is told, and the next head goes on.
#[test]
fn the_head_is_stopped_in_the_midst_of_its_streams() {
    let mut scenario = a_replica_on_each_node();
    for _ in 0..2 {
        scenario.sees_its_head_stop();
    }
    scenario.close();
}
