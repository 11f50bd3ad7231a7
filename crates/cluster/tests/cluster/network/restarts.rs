//! A head that takes the place of another (**G7**).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{
    Change, Cluster, Desired, Drained, HEAD, Ledger, ReplicaState, ReplicaStatus, ShardState,
    Whereabouts,
};
use playhouse_link::Network;
use playhouse_types::{Epoch, ReplicaId};
use tokio::time::{Instant, sleep, timeout};

use super::losses::begin;
use super::machine::{Machine, World, head_id};
use super::{done, start};
use crate::engines::scripted::layout;
use crate::life::fate::{Fate, LONG};

/// The maximum time of a start in which the head waits for no node.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long a head waits for nodes that may not come.
const QUIET: Duration = Duration::from_secs(5);

/// Returns the machine of the head in a world without faults.
fn calm() -> Arc<Machine> {
    let fate = Fate::new(1);
    fate.calm_down();
    let world = World::new(fate, Network::new(1));
    Machine::new(&world, "the head's own")
}

/// Returns the ledger of an earlier head that was to run `replicas` replicas.
fn ledger(replicas: u32) -> Arc<Ledger> {
    let ledger = Ledger::in_memory();
    let desired = Desired { replicas, layout: layout(1, 1) };
    ledger.set_desired(desired).expect("no journal");
    Arc::new(ledger)
}

/// Returns how long a head takes to serve whose ranks were on `hosts`, while the nodes in `back` are there and
/// run no process.
async fn takes(hosts: Option<&[&str]>, back: &[&str]) -> Duration {
    let own = calm();
    let machines: Vec<_> = back.iter().map(|name| begin(&own.world, name, 2)).collect();
    let ledger = ledger(2);
    if let Some(hosts) = hosts {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        ledger.set_hosts(hosts).expect("no journal");
    }
    let begun = Instant::now();
    let cluster = start(&own, ledger).await;
    timeout(LONG, cluster.serving()).await.expect("it starts").expect("there are devices");
    let took = begun.elapsed();
    drop(machines);
    cluster.stop(LONG).await;
    took
}

/// **RE-4**
#[tokio::test(start_paused = true)]
async fn a_head_waits_only_for_those_who_had_ranks() {
    let both = ["a", "b"];
    for (hosts, back) in [(&both[..], &both[..]), (&["a"], &both), (&["a"], &["a"]), (&[], &["a"])]
    {
        let took = takes(Some(hosts), back).await;
        assert!(took < AT_ONCE, "ranks on {hosts:?}, {back:?} are back: {took:?}");
    }
    let missing = takes(Some(&both), &["a"]).await;
    assert!(missing >= QUIET && missing < QUIET + AT_ONCE, "b may have ranks: {missing:?}");
    let unknown = takes(None, &both).await;
    assert!(unknown >= QUIET, "an older version did not say who had ranks: {unknown:?}");
}

/// **G7**: what an operator has drained rests from the start, on no device; nobody takes its place.
#[tokio::test(start_paused = true)]
async fn a_drained_replica_rests_under_the_next_head() {
    for (replicas, expected) in [(2, vec![0, 3]), (1, vec![3])] {
        let own = calm();
        let ledger = ledger(replicas);
        let drained = ReplicaId(3);
        ledger
            .set_drained(Drained { replicas: [drained].into(), ..Drained::default() })
            .expect("no journal");
        ledger.set_hosts([].into()).expect("no journal");
        let cluster = start(&own, ledger).await;
        timeout(LONG, cluster.serving()).await.expect("it starts").expect("one device is enough");
        let overview = cluster.overview();
        let replicas = overview.status().replicas;
        let ids: Vec<_> = replicas.iter().map(|it| it.id.0).collect();
        assert_eq!(ids, expected);
        for replica in &replicas {
            let rests = replica.state == ReplicaState::Drained;
            assert_eq!(rests, replica.id == drained, "{replica:?}");
            let mut shards = replica.stages.iter().flat_map(|stage| &stage.shards);
            let ended = shards.all(|shard| shard.state == ShardState::Ended);
            assert_eq!(ended, rests, "nothing is lost: {replica:?}");
        }
        if expected == [3] {
            // The device of the head's machine is free for it.
            done(&overview, Change::RestartReplica { replica: drained }).await;
            assert_eq!(overview.status().replicas[0].state, ReplicaState::Serving);
        }
        cluster.stop(LONG).await;
    }
}

/// Returns the epoch and the process of each replica, once all replicas serve.
async fn processes(cluster: &Cluster) -> BTreeMap<ReplicaId, (Epoch, Whereabouts)> {
    let all = || {
        let replicas = cluster.overview().status().replicas.into_iter();
        let of = |replica: ReplicaStatus| {
            let serves = replica.state == ReplicaState::Serving;
            let whereabouts = replica.stages[0].shards[0].whereabouts.clone();
            serves.then_some((replica.id, (replica.epoch, whereabouts?)))
        };
        replicas.map(of).collect::<Option<BTreeMap<_, _>>>()
    };
    let begun = Instant::now();
    loop {
        match all() {
            Some(all) => return all,
            None => assert!(begun.elapsed() < LONG, "they serve"),
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// **RE-1**, **RE-4**: processes that their nodes have offered are waited for, however long before them the
/// nodes are back.
#[tokio::test(start_paused = true)]
async fn a_head_takes_over_processes_that_come_after_their_nodes() {
    let own = calm();
    let machines: Vec<_> = ["a", "b", "c"].map(|name| begin(&own.world, name, 2)).into();
    let written = ledger(6);
    let first = start(&own, Arc::clone(&written)).await;
    let before = processes(&first).await;
    let hosts: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
    assert_eq!(written.hosts(), Some(hosts.clone()), "LED-6");

    // Its process with the machine: what sat there is gone.
    own.go_down();
    own.world.network.crash(&head_id());
    let ledger = ledger(6);
    ledger.set_hosts(hosts).expect("no journal");
    let late = Duration::from_millis(1500);
    machines.iter().for_each(|machine| own.world.suspend(machine.ranks(), Some(late)));
    let begun = Instant::now();
    let second = start(&Machine::new(&own.world, "the head's next"), ledger).await;
    let after = processes(&second).await;
    let took = begun.elapsed();
    for (id, (epoch, whereabouts)) in &before {
        let next = Epoch(epoch.0 + 1);
        if whereabouts.node != HEAD {
            assert_eq!(after[id], (next, whereabouts.clone()), "{id} is taken over");
        }
    }
    assert!(took >= late, "{took:?}");
    second.stop(LONG).await;
}
