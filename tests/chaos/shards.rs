//! Processes of ranks that die or hang (**G1**, **G2**, **G3**).

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::rig::cluster::{At, Cluster};
use crate::rig::fault::Fault;
use crate::rig::load::{DEMO, Model, REFERENCE};
use crate::rig::patience::{await_for, wait_until};
use crate::rig::process::signal;
use crate::scenario::{Heal, Scenario};

/// Who is silent for so long is not missed yet: a link waits for a second.
const HICCUP: Duration = Duration::from_millis(300);

fn withstand(model: &Model, layout: &[&str], faults: &[Fault]) {
    let mut scenario = Scenario::open(model, Cluster::local(model, layout));
    for fault in faults {
        scenario.withstands(fault, Heal::OnceSeen);
    }
    scenario.close();
}

const fn at(replica: usize, stage: usize, tensor: usize) -> At {
    At { replica, stage, tensor }
}

/// **G1** through the loss of a shard: there is one replica, and everybody waits for it.
#[test]
fn a_tensor_pair_loses_either_rank() {
    let faults = [Fault::KillShard(at(0, 0, 0)), Fault::KillShard(at(0, 0, 1))];
    withstand(&DEMO, &["-tp", "2"], &faults);
}

/// **G3**: a hang is silence.
#[test]
fn either_rank_of_a_tensor_pair_hangs() {
    let faults = [Fault::FreezeShard(at(0, 0, 0)), Fault::FreezeShard(at(0, 0, 1))];
    withstand(&DEMO, &["-tp", "2"], &faults);
}

/// **G1** through the loss of a stage.
#[test]
fn a_pipeline_loses_either_stage() {
    let faults = [Fault::KillShard(at(0, 0, 0)), Fault::KillShard(at(0, 1, 0))];
    withstand(&DEMO, &["-pp", "2"], &faults);
}

#[test]
fn either_stage_of_a_pipeline_hangs() {
    let faults = [Fault::FreezeShard(at(0, 0, 0)), Fault::FreezeShard(at(0, 1, 0))];
    withstand(&DEMO, &["-pp", "2"], &faults);
}

/// **G1**, **G2**: requests move to the other replica, in the midst of prompt or answer.
#[test]
fn either_replica_loses_its_rank() {
    let faults = [Fault::KillShard(at(0, 0, 0)), Fault::KillShard(at(1, 0, 0))];
    withstand(&DEMO, &["-dp", "2"], &faults);
}

#[test]
fn the_rank_of_either_replica_hangs() {
    let faults = [Fault::FreezeShard(at(0, 0, 0)), Fault::FreezeShard(at(1, 0, 0))];
    withstand(&DEMO, &["-dp", "2"], &faults);
}

/// A model whose text depends on every bit, over eight ranks.
#[test]
fn one_of_eight_ranks_is_lost() {
    let faults = [
        Fault::KillShard(at(0, 0, 3)),
        Fault::FreezeShard(at(0, 1, 0)),
        Fault::KillShard(at(0, 1, 2)),
    ];
    withstand(&REFERENCE, &["-tp", "4", "-pp", "2"], &faults);
}

/// **G3** asks for no haste: who is back before it is missed has lost nothing.
#[test]
fn a_hiccup_is_no_fault() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-tp", "2"]));
    let hiccup = Fault::FreezeShard(at(0, 0, 1));
    // One that took so long that it may be missed was none; then there is another.
    let was_short = (0..10).any(|_| {
        let epochs = scenario.cluster.epochs();
        let took = scenario.during_the_load(|cluster| {
            let start = Instant::now();
            hiccup.strike(cluster);
            let _ = await_for(HICCUP, || false);
            hiccup.heal(cluster);
            start.elapsed()
        });
        let is_short = took < 2 * HICCUP;
        assert!(!is_short || scenario.cluster.epochs() == epochs, "nothing restarts: {took:?}");
        scenario.goes_on();
        is_short
    });
    assert!(was_short, "this machine has no time for it");
    scenario.close();
}

/// **G1**: a rank dies, and then another one of the same replica before that serves again.
#[test]
fn a_replica_that_starts_again_loses_another_rank() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-tp", "2", "-pp", "2"]));
    scenario.during_the_load(|cluster| {
        let (epochs, keeping) = (cluster.epochs(), cluster.shard(at(0, 0, 1)));
        Fault::KillShard(at(0, 0, 0)).strike(cluster);
        wait_until("the loss is seen", || cluster.epochs() != epochs);
        // One that keeps its weights for the next epoch, before it is asked to join it ...
        keeping.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        let joining = at(0, 1, 1);
        wait_until("the next epoch begins", || cluster.shard(joining).is_some());
        // ... and one that is joining it, or has.
        Fault::KillShard(joining).strike(cluster);
    });
    scenario.goes_on();
    scenario.close();
}

/// **G1**: everything stops for a while, as when a machine is suspended. All links are lost at once.
#[test]
fn the_whole_machine_hangs_and_wakes_up() {
    let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &["-tp", "2", "-dp", "2"]));
    scenario.during_the_load(|cluster| {
        Fault::FreezeHead.strike(cluster);
        let _ = await_for(Duration::from_millis(2_500), || false);
        Fault::FreezeHead.heal(cluster);
    });
    scenario.goes_on();
    scenario.close();
}

/// **G1**: whoever takes the place of a rank dies as soon as it is there: before it has its weights, in the
/// join of its group, or soon after.
#[test]
fn a_rank_dies_again_and_again_while_its_group_starts() {
    for layout in [["-tp", "2"], ["-pp", "2"]] {
        let mut scenario = Scenario::open(&DEMO, Cluster::local(&DEMO, &layout));
        let stage = usize::from(layout[0] == "-pp");
        let dying = at(0, stage, 1 - stage);
        scenario.during_the_load(|cluster| {
            let mut dead = None;
            for _ in 0..6 {
                wait_until("another takes its place", || {
                    cluster.shard(dying).is_some_and(|pid| Some(pid) != dead)
                });
                dead = cluster.shard(dying);
                Fault::KillShard(dying).strike(cluster);
            }
        });
        scenario.goes_on();
        scenario.close();
    }
}
