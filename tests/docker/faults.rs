//! Faults of containers under load, which cost no client a token.

use crate::cluster::Cluster;
use crate::rig::answer::Answer;
use crate::rig::load::{DEMO, Request, play, play_on};
use crate::rig::verdict::Verdict;
use crate::shell::docker;

/// The number of tokens that the clients have read when a fault strikes.
const BEFORE_THE_FAULT: usize = 250;

/// A fault that docker causes on a node, and its repair.
struct Fault {
    name: &'static str,
    strike: fn(&Cluster, &str),
    heal: fn(&Cluster, &str),
}

const FAULTS: [Fault; 3] = [
    Fault {
        name: "docker kill",
        strike: |_, node| drop(docker(&["kill", node])),
        heal: |_, node| drop(docker(&["start", node])),
    },
    Fault {
        name: "docker pause",
        strike: |_, node| drop(docker(&["pause", node])),
        heal: |_, node| drop(docker(&["unpause", node])),
    },
    Fault {
        name: "docker network disconnect",
        strike: |cluster, node| {
            drop(docker(&["network", "disconnect", &cluster.network(), node]));
        },
        heal: |cluster, node| drop(docker(&["network", "connect", &cluster.network(), node])),
    },
];

/// Sends all requests and returns their answers; `happen` runs when the clients have read the first tokens.
pub(crate) fn under_load(
    cluster: &Cluster,
    requests: &[Request],
    happen: impl FnOnce() + Send,
) -> Vec<Vec<Answer>> {
    let (answers, ()) = play_on(requests, cluster.api, |progress| {
        progress.wait_for_tokens(BEFORE_THE_FAULT);
        happen();
    });
    answers
}

/// **G1**, **G2**: 0 failed, 0 truncated, 0 differing, whatever docker does to a node.
#[test]
fn a_node_that_is_killed_paused_or_cut_off_costs_no_token() {
    let Some(cluster) = Cluster::new("-tp 2 -dp 2") else { return };
    cluster.up();
    cluster.wait_until("two replicas serve", || cluster.serve(2));
    let requests = DEMO.requests(0);
    let (expected, _) = play(&requests, cluster.api, |_| ());
    let verdict = Verdict::of(&requests, &expected, &expected);
    assert!(verdict.is_clean(), "undisturbed: {verdict}{}", cluster.logs());
    for (at, Fault { name, strike, heal }) in FAULTS.iter().enumerate() {
        let nodes = cluster.containers("node");
        let node = &nodes[at % nodes.len()];
        let answers = under_load(&cluster, &requests, || strike(&cluster, node));
        let verdict = Verdict::of_all(&requests, &expected, &answers);
        heal(&cluster, node);
        assert!(verdict.is_clean(), "{name}: {verdict}{}", cluster.logs());
        let back = cluster.wait_until("two replicas serve again", || cluster.serve(2));
        println!("{name}: {verdict}  whole {back:?} after it was made good");
    }
}
