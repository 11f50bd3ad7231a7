//! What is neither dead nor well: a folder that is away for a while, memory that runs out, and a rank that gets
//! a part of its core (**G1**, **G2**).

use crate::memory_group::MemoryGroup;
use crate::rig::checkpoint::Checkpoint;
use crate::rig::cluster::{At, Cluster};
use crate::rig::fault::Fault;
use crate::rig::load::{DEMO, Model, REFERENCE};
use crate::rig::patience::wait_until;
use crate::scenario::Scenario;

/// Restarts that used to be all that a replica had.
const RESTARTS: u64 = 7;

/// The only replica cannot load for longer than its quick restarts last, and no stream notices.
#[test]
fn the_checkpoint_is_away_while_a_rank_restarts() {
    let checkpoint = Checkpoint::copy(REFERENCE.folder.expect("a folder"));
    let model = Model { folder: Some(checkpoint.folder()), ..REFERENCE };
    let mut scenario = Scenario::open(&model, Cluster::local(&model, &["-tp", "2"]));
    scenario.during_the_load(|cluster| {
        let before = cluster.epochs()[0];
        checkpoint.take_away();
        Fault::KillShard(At { replica: 0, stage: 0, tensor: 1 }).strike(cluster);
        wait_until("its quick restarts are over", || cluster.epochs()[0] >= before + RESTARTS);
        checkpoint.bring_back();
    });
    scenario.goes_on();
    scenario.close();
}

/// A rank that computes a hundredth of what it should: its requests go to the replica that is well.
#[test]
fn a_rank_has_a_small_part_of_its_core() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-dp", "2"]));
    let slow = Fault::ThrottleShard(At { replica: 0, stage: 0, tensor: 0 });
    scenario.during_the_load(|cluster| {
        slow.strike(cluster);
        wait_until("it is found slow", || cluster.metric("playhouse_replica_outlier") == 1.0);
    });
    assert_eq!(
        scenario.cluster.metric("playhouse_replica_restarts_total"),
        0.0,
        "nothing was lost"
    );
    slow.heal(&mut scenario.cluster);
    scenario.goes_on();
    scenario.close();
}

/// The kernel takes a rank, not the head, and no stream notices.
#[test]
fn the_memory_of_a_machine_runs_out() {
    // It is empty again, and removed, when the cluster is gone.
    let Some(group) = MemoryGroup::new() else {
        return println!(
            "*** NOT TESTED: no control group with a limit of memory can be made here"
        );
    };
    let cluster = Cluster::local_by(group.command(), &DEMO, &["-tp", "2"]);
    let mut scenario = Scenario::open(&DEMO, cluster);
    scenario.during_the_load(|cluster| {
        let before = cluster.epochs();
        group.run_out(|| cluster.epochs() != before);
    });
    let logs = scenario.cluster.logs();
    assert!(logs.contains("killed for want of memory"), "{logs}");
    scenario.goes_on();
    scenario.close();
}
