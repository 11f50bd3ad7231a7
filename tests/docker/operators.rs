//! The work of operators on the compose cluster, by the commands of `docs/compose.md`, under load.

use std::collections::BTreeSet;

use crate::cluster::Cluster;
use crate::faults::under_load;
use crate::page::commands;
use crate::rig::answer::Answer;
use crate::rig::http;
use crate::rig::load::{DEMO, Request, play};
use crate::rig::verdict::Verdict;
use crate::shell::volume_exists;

/// A cluster whose operators work while its clients are served.
struct Operated {
    cluster: Cluster,
    requests: Vec<Request>,
    /// The answers of the undisturbed cluster.
    expected: Vec<Answer>,
}

// === impl Operated ===

impl Operated {
    /// Starts a cluster and gets the answers that it must give from then on.
    fn start(layout: &'static str) -> Option<Self> {
        let cluster = Cluster::new(layout)?;
        cluster.up();
        cluster.wait_until("two replicas serve", || cluster.serve(2));
        cluster.wait_until("two nodes are connected", || cluster.nodes() == 2);
        let requests = DEMO.requests(0);
        let (expected, ()) = play(&requests, cluster.api, |_| ());
        Some(Self { cluster, requests, expected })
    }

    /// Runs a command under load, and returns its output. Every client must get every token.
    fn run(&self, line: &str) -> String {
        let mut said = String::new();
        let answers = under_load(&self.cluster, &self.requests, || said = self.cluster.run(line));
        let verdict = Verdict::of_all(&self.requests, &self.expected, &answers);
        assert!(verdict.is_clean(), "{line}: {verdict}{}", self.cluster.logs());
        said
    }

    /// Returns the number of certificates of nodes that were renewed.
    fn renewals(&self) -> f64 {
        let (_, metrics) = http::get(self.cluster.api, "/metrics").expect("the API answers");
        let counts = metrics.lines().filter(|line| {
            line.starts_with("playhouse_certificate_renewals_total")
                && line.contains("role=\"node\"")
                && line.contains("outcome=\"renewed\"")
        });
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until this many nodes are connected, none of which is one of `gone`.
    fn wait_for_nodes(&self, count: usize, gone: &str) {
        self.cluster.wait_until("other nodes are connected", || {
            let connected = self.cluster.connected();
            connected.len() == count && !connected.contains(gone)
        });
    }
}

/// Returns the commands of the section on nodes that go: three for one that is not needed, three for one that is
/// not trusted.
fn of_nodes_that_go(node: &str) -> [String; 6] {
    let page = commands("docs/compose.md");
    let first = page.iter().position(|line| line.contains("drain node")).expect("a command");
    std::array::from_fn(|at| page[first + at].replace("$NODE", node))
}

/// Returns the name of a node that has ranks.
fn host(cluster: &Cluster) -> String {
    let hosts: BTreeSet<String> = cluster.hosts();
    hosts.into_iter().next().expect("a node has ranks")
}

/// **G1**, **G4**: clients get every token, whatever operators do.
#[test]
fn nodes_are_drained_renewed_and_revoked_and_leave_no_key_behind() {
    let layout = "-tp 1 -dp 2 --node-certificate-lifetime 40s";
    let Some(operated) = Operated::start(layout) else { return };
    let cluster = &operated.cluster;

    let node = host(cluster);
    let [drain, rm, remove, ..] = of_nodes_that_go(&node);
    operated.run(&drain);
    assert!(!cluster.hosts().contains(&node), "{}", cluster.status());
    let key = Cluster::key_volume(&node);
    assert!(volume_exists(&key));
    cluster.run(&rm);
    assert!(!volume_exists(&key), "the key of {node} is left behind");
    cluster.run(&remove);
    cluster.compose(&["up", "--detach", "--no-build"]);
    operated.wait_for_nodes(2, &node);

    operated.run("docker compose exec head playhouse scale dp 3 --wait");
    assert!(cluster.serve(3), "{}", cluster.status());
    operated.run("docker compose exec head playhouse scale dp 2 --wait");
    assert!(cluster.serve(2), "{}", cluster.status());

    let (connected, before) = (cluster.connected(), operated.renewals());
    cluster
        .wait_until("both have renewed their certificates", || operated.renewals() >= before + 2.0);
    assert_eq!(cluster.connected(), connected, "nobody was lost");

    let node = host(cluster);
    let [_, _, _, revoke, rm, up] = of_nodes_that_go(&node);
    let said = operated.run(&revoke);
    assert!(said.contains("it was connected and has been cut off"), "{said}");
    cluster.wait_until("its replicas serve elsewhere", || {
        cluster.serve(2) && !cluster.hosts().contains(&node)
    });
    // Docker starts the node again and again.
    let refusals = || cluster.logs().matches("was revoked").count();
    cluster.wait_until("the node is refused", || refusals() > 0);
    cluster.compose(&["restart", "head"]);
    let before = refusals();
    cluster.wait_until("the next head refuses the node", || refusals() > before);
    let key = Cluster::key_volume(&node);
    cluster.run(&rm);
    assert!(!volume_exists(&key), "the key of {node} is left behind");
    cluster.run(&up);
    operated.wait_for_nodes(2, &node);
    cluster.wait_until("both replicas serve", || cluster.serve(2));
}
