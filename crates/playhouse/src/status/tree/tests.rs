use playhouse_admin::view::{Change, Loading, Phase, Stage, Step, Whereabouts};

use super::*;

/// Two replicas on two nodes: one of two ranks serves, one of two stages starts again.
pub(crate) fn cluster() -> Cluster {
    let device = |name: &str| Device { name: name.to_owned(), memory_bytes: 8 << 30, threads: 2 };
    let node = |name: &str, address: Option<&str>, connected| Node {
        name: name.to_owned(),
        address: address.map(ToOwned::to_owned),
        connected,
        drained: false,
        devices: vec![device("cpu:0"), device("cpu:1")],
    };
    let shard = |state, node: Option<&str>, pid, layers: Range<usize>| Shard {
        state,
        loading: (state == ShardState::Loading).then_some(Loading { bytes: 1, of_bytes: 4 }),
        whereabouts: node.map(|node| Whereabouts {
            node: node.to_owned(),
            device: format!("cpu:{}", pid % 2),
            pid,
        }),
        layers,
        query_heads: 7,
        kv_heads: 1,
        weight_bytes: 494 << 20,
    };
    let replica = |id, state, stages| Replica {
        id,
        state,
        reason: None,
        waits_for: None,
        stalled: false,
        seconds_without_progress: None,
        slower_than_peers: None,
        epoch: 1,
        running: 3,
        waiting: 0,
        kv_blocks_held: 96,
        kv_blocks: 512,
        prefix_queried_tokens: 0,
        prefix_hit_tokens: 0,
        prefill_tokens: 1000,
        generated_tokens: 2000,
        stages,
    };
    let tensor = [(0, "head"), (1, "head")]
        .map(|(pid, node)| shard(ShardState::Ready, Some(node), 4000 + pid, 0..24));
    let first = shard(ShardState::Loading, Some("node-b"), 77, 0..12);
    let second = shard(ShardState::Starting, None, 0, 12..13);
    let mut again = replica(
        1,
        ReplicaState::Restarting,
        vec![
            Stage { layers: 0..12, shards: vec![first] },
            Stage { layers: 12..13, shards: vec![second] },
        ],
    );
    again.reason = Some("node-b is gone:\n\u{1b}[31mtimed out".to_owned());
    again.epoch = 4;
    (again.prefix_queried_tokens, again.prefix_hit_tokens) = (200, 90);
    let serving = vec![Stage { layers: 0..24, shards: tensor.to_vec() }];
    Cluster {
        draining: false,
        in_flight: 5,
        nodes: vec![
            node("head", None, true),
            node("node-b\u{1b}[2J", Some("10.0.0.2:4433"), false),
        ],
        replicas: vec![replica(0, ReplicaState::Serving, serving), again],
        operation: None,
    }
}

#[test]
fn a_cluster_is_a_tree() {
    let expected = include_str!("cluster.txt");
    assert_eq!(text(&cluster(), false), expected);
}

/// ST-2
#[test]
fn colours_add_only_colours() {
    let mut coloured = text(&cluster(), true);
    for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
        assert!(coloured.contains(code));
        coloured = coloured.replace(code, "");
    }
    assert_eq!(coloured, text(&cluster(), false));
}

#[test]
fn a_cluster_of_nothing_is_shown_too() {
    let nothing =
        Cluster { draining: true, in_flight: 0, nodes: vec![], replicas: vec![], operation: None };
    let text = text(&nothing, false);
    assert!(text.starts_with("0 of 0 replicas serve, in flight: 0, draining\n"));
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn what_rests_is_told() {
    let mut cluster = cluster();
    cluster.nodes[0].drained = true;
    cluster.nodes[1].drained = true;
    cluster.replicas[0].state = ReplicaState::Draining;
    cluster.replicas[1].state = ReplicaState::Drained;
    let text = text(&cluster, false);
    let states = ["head", "node-b", "replica 0", "replica 1"].map(|name| {
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        line[name.len()..].split_whitespace().find(|word| !word.contains('\\')).map(str::to_owned)
    });
    let expected = ["drained", "lost", "draining", "drained"];
    assert_eq!(states.each_ref().map(|state| state.as_deref().expect("a state")), expected);
}

/// ST-2
#[test]
fn what_is_being_changed_is_told_below_the_summary() {
    let mut cluster = cluster();
    let at_unix_us = 1;
    let step = Step { at_unix_us, phase: Phase::Prepare, text: "replica-2 \u{1b}[2J".to_owned() };
    cluster.operation = Some(Operation {
        id: 7,
        key: None,
        change: Change::RestartReplica { replica: 2 },
        phase: Phase::Prepare,
        reason: None,
        steps: vec![step],
        started_unix_us: at_unix_us,
        ended_unix_us: None,
    });
    let text = text(&cluster, false);
    let line = text.lines().nth(1);
    assert_eq!(line, Some("operation 7, restart replica 2: prepare: replica-2 \\u{1b}[2J"));
}

#[test]
fn a_replica_says_which_devices_it_waits_for() {
    let mut cluster = cluster();
    cluster.replicas[1].waits_for = Some("2 ranks need 2 devices\u{1b}[2J".to_owned());
    let text = text(&cluster, false);
    let expected = "│              waits for devices: 2 ranks need 2 devices\\u{1b}[2J\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_ranks_of_a_drained_replica_have_ended_and_are_not_lost() {
    let mut cluster = cluster();
    cluster.replicas[1].state = ReplicaState::Drained;
    let shards = cluster.replicas[1].stages.iter_mut().flat_map(|stage| &mut stage.shards);
    shards.for_each(|shard| shard.state = ShardState::Ended);
    let text = text(&cluster, false);
    let (_, replica) = text.split_once("replica 1").expect("it is shown");
    assert_eq!(replica.matches(" ended ").count(), 2, "{text}");
    assert!(!replica.contains("lost"), "{text}");
}

#[test]
fn a_share_of_nothing_is_a_dash() {
    assert_eq!(percent(0, 0), "-");
    assert_eq!(percent(1, 3), "33 %");
    assert_eq!(percent(u64::MAX, u64::MAX), "100 %");
}

#[test]
fn requests_that_nobody_serves_are_said_to_be_parked() {
    let mut cluster = cluster();
    cluster.replicas.remove(0);
    let text = text(&cluster, false);
    let first = "0 of 1 replicas serve, in flight: 5 (parked until one serves)\n";
    assert!(text.starts_with(first), "{text}");
}

#[test]
fn a_replica_that_is_slower_than_its_peers_says_so() {
    let mut cluster = cluster();
    cluster.replicas[0].slower_than_peers = Some(12);
    let text = text(&cluster, false);
    let (_, replica) = text.split_once("replica 0").expect("it is shown");
    let (head, rest) = replica.split_once('\n').expect("lines");
    assert!(head.contains(" slow ") && !head.contains("serving"), "{text}");
    assert!(rest.contains("its steps take 12 times what others take"), "{text}");
}

#[test]
fn a_replica_that_stalls_is_not_said_to_serve() {
    let mut cluster = cluster();
    cluster.replicas[0].stalled = true;
    cluster.replicas[0].seconds_without_progress = Some(12);
    let text = text(&cluster, false);
    assert!(text.starts_with("0 of 2 replicas serve"), "{text}");
    let (_, replica) = text.split_once("replica 0").expect("it is shown");
    let (head, rest) = replica.split_once('\n').expect("lines");
    assert!(head.contains(" stalled ") && !head.contains("serving"), "{text}");
    assert!(rest.starts_with("│              nothing has come of its work for 12 s\n"), "{text}");
}
