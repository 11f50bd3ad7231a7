//! Machines that die, hang, or leave (**G1**, **G2**, **G3**).

use crate::rig::cluster::{At, Cluster};
use crate::rig::fault::Fault;
use crate::rig::load::DEMO;
use crate::rig::patience::{await_for, wait_until};
use crate::scenario::{Heal, Scenario};

/// Two nodes with a replica each.
fn a_replica_on_each_node() -> Scenario {
    let cluster = Cluster::of_nodes(&DEMO, &["-tp", "2", "-dp", "2"], 2);
    assert_ne!(cluster.replicas_on(0), cluster.replicas_on(1), "each has its node");
    Scenario::open(&DEMO, cluster)
}

/// **G1** through the loss of a node: it comes back only after everything was answered.
#[test]
fn either_node_dies_and_comes_back() {
    let mut scenario = a_replica_on_each_node();
    for node in 0..2 {
        scenario.withstands(&Fault::KillNode(node), Heal::AfterTheLoad);
    }
    scenario.close();
}

/// **G3** and **G7**: what wakes up later is of an older epoch, and says nothing to anybody.
#[test]
fn either_node_hangs_and_wakes_up() {
    let mut scenario = a_replica_on_each_node();
    for node in 0..2 {
        scenario.withstands(&Fault::FreezeNode(node), Heal::AfterTheLoad);
    }
    scenario.close();
}

/// **G7**: a node that comes back under its name before it was missed.
#[test]
fn either_node_is_restarted_at_once() {
    let mut scenario = a_replica_on_each_node();
    for node in 0..2 {
        scenario.withstands(&Fault::RestartNode(node), Heal::OnceSeen);
    }
    scenario.close();
}

/// **G4**: a node that says goodbye is seen at once, and its requests move.
#[test]
fn either_node_leaves_and_comes_back() {
    let mut scenario = a_replica_on_each_node();
    for node in 0..2 {
        scenario.withstands(&Fault::StopNode(node), Heal::AfterTheLoad);
    }
    scenario.close();
}

/// **G1**: a pipeline over two nodes loses half of itself, and everybody waits for its return.
#[test]
fn half_of_the_only_replica_is_lost_with_its_node() {
    let cluster = Cluster::of_nodes(&DEMO, &["-tp", "2", "-pp", "2"], 2);
    assert_eq!(cluster.replicas_on(0), cluster.replicas_on(1), "it sits on both");
    let mut scenario = Scenario::open(&DEMO, cluster);
    for fault in [Fault::KillNode(0), Fault::StopNode(1), Fault::FreezeNode(0)] {
        scenario.withstands(&fault, Heal::OnceSeen);
    }
    scenario.close();
}

/// **G1**: the other node has room, so the replica moves there and nobody waits for the lost one.
#[test]
fn a_replica_moves_to_a_spare_node() {
    let cluster = Cluster::of_nodes(&DEMO, &["-tp", "2"], 2);
    let home = if cluster.replicas_on(0).is_empty() { 1 } else { 0 };
    let mut scenario = Scenario::open(&DEMO, cluster);
    scenario.withstands(&Fault::KillNode(home), Heal::AfterTheLoad);
    assert_eq!(scenario.cluster.replicas_on(1 - home), [0], "it stays where it serves");
    scenario.close();
}

/// **G1**: an agent starts and reaps; the ranks that run do without it. Nothing restarts.
#[test]
fn nobody_misses_an_agent_that_hangs() {
    let mut scenario = a_replica_on_each_node();
    let (cluster, epochs) = (&mut scenario.cluster, vec![1; 2]);
    Fault::FreezeAgent(0).strike(cluster);
    wait_until("it is missed", || !cluster.is_connected(0));
    scenario.goes_on();
    assert_eq!(scenario.cluster.epochs(), epochs, "nothing restarts");
    // Who dies now is not reaped, so it is silence; and its replica has to wait for the agent.
    let of_node = scenario.cluster.replicas_on(0)[0];
    let shard = Fault::KillShard(At { replica: of_node, stage: 0, tensor: 1 });
    shard.strike(&mut scenario.cluster);
    wait_until("the loss is seen", || scenario.cluster.epochs() != epochs);
    Fault::FreezeAgent(0).heal(&mut scenario.cluster);
    scenario.goes_on();
    scenario.close();
}

/// **G1**: two faults at once. One replica has lost a rank while the node of the other hangs.
#[test]
fn a_rank_dies_and_the_other_node_hangs() {
    let mut scenario = a_replica_on_each_node();
    for node in 0..2 {
        let replica = scenario.cluster.replicas_on(node)[0];
        let dying = Fault::KillShard(At { replica, stage: 0, tensor: 1 });
        let hanging = Fault::FreezeNode(1 - node);
        let seen = scenario.during_the_load(|cluster| {
            let before = cluster.epochs();
            dying.strike(cluster);
            hanging.strike(cluster);
            await_for(hanging.seen_within(), || {
                before.iter().zip(cluster.epochs()).all(|(before, now)| *before != now)
            })
        });
        assert!(seen.is_ok(), "not both were seen{}", scenario.cluster.logs());
        hanging.heal(&mut scenario.cluster);
        scenario.goes_on();
    }
    scenario.close();
}

/// A second agent with the folder of one that serves ends at once, and nothing restarts.
#[test]
fn a_second_agent_begins_with_the_folder_of_one_that_serves() {
    let mut scenario = a_replica_on_each_node();
    scenario.during_the_load(|cluster| {
        for turn in 0..18 {
            assert_eq!(cluster.start_twin(turn % 2), Some(1), "{}", cluster.logs());
        }
    });
    assert_eq!(scenario.cluster.epochs(), [1; 2], "nothing restarts");
    scenario.goes_on();
    scenario.close();
}
