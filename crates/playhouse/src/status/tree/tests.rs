use playhouse_admin::view::{Loading, Stage, Whereabouts};

use super::*;

/// Two replicas on two nodes: one of two ranks serves, one of two stages starts again.
pub(crate) fn cluster() -> Cluster {
    let device = |name: &str| Device { name: name.to_owned(), memory_bytes: 8 << 30, threads: 2 };
    let node = |name: &str, address: Option<&str>, connected| Node {
        name: name.to_owned(),
        address: address.map(ToOwned::to_owned),
        connected,
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
    let nothing = Cluster { draining: true, in_flight: 0, nodes: vec![], replicas: vec![] };
    let text = text(&nothing, false);
    assert!(text.starts_with("0 of 0 replicas serve, in flight: 0, draining\n"));
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn a_share_of_nothing_is_a_dash() {
    assert_eq!(percent(0, 0), "-");
    assert_eq!(percent(1, 3), "33 %");
    assert_eq!(percent(u64::MAX, u64::MAX), "100 %");
}
