//! The head dies and is started again: what still runs on the nodes goes on under it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::cluster::{Folder, Head, Process, post, wait_until};
use crate::ranks::lives;

/// Exact sums, so that a layout does not show in the tokens.
const LAYOUT: [&str; 6] = ["-tp", "2", "-dp", "2", "--dtype", "f32"];

/// One cluster at a time: who is not heard for a second is lost, and the machine may have two cores.
static ALONE: Mutex<()> = Mutex::new(());

/// A head that keeps what it was asked for, and two nodes with a replica each.
struct Cluster {
    head: Head,
    nodes: [Process; 2],
    api: String,
    expected: Vec<Value>,
    _state: Folder,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    fn start() -> Self {
        let alone = ALONE.lock();
        let state = Folder::new();
        let folder = state.join("state");
        let flags = [&LAYOUT[..], &["--state-dir", &folder]].concat();
        let mut head = Head::start(None, "127.0.0.1", &flags);
        let nodes = ["a", "b"].map(|name| head.node(None, name, Some(&head.token())));
        let api = head.api();
        let expected = answers(&api);
        Self { head, nodes, api, expected, _state: state, _alone: alone }
    }

    /// All answer as before, and nothing is held.
    fn goes_on(&self) {
        assert_eq!(answers(&self.api), self.expected);
        wait_until("nothing is held", || {
            let status = self.head.status();
            let held = |replica: &Value| replica["kv_blocks_held"] == 0 && replica["running"] == 0;
            status["in_flight"] == 0 && replicas(&status).iter().all(held)
        });
    }
}

fn request(index: u64) -> Value {
    json!({
        "prompt": format!("Tell me {index} things about the sea"), "max_tokens": 60,
        "ignore_eos": true, "temperature": 0.8, "seed": index, "return_token_ids": true,
    })
}

fn answers(api: &str) -> Vec<Value> {
    let answer = |index| post(api, &request(index))["choices"][0]["token_ids"].clone();
    (0..4).map(answer).collect()
}

fn replicas(status: &Value) -> Vec<Value> {
    status["replicas"].as_array().expect("replicas").clone()
}

/// The processes of a replica, rank by rank.
fn pids(replica: &Value) -> Vec<u32> {
    let stages = replica["stages"].as_array().expect("stages").iter();
    let shards = stages.flat_map(|stage| stage["shards"].as_array().expect("shards"));
    let pid = |shard: &Value| shard["whereabouts"]["pid"].as_u64();
    shards.filter_map(pid).map(|pid| u32::try_from(pid).expect("a process id")).collect()
}

/// The processes of each replica.
fn all_pids(status: &Value) -> Vec<Vec<u32>> {
    replicas(status).iter().map(pids).collect()
}

fn epochs(status: &Value) -> Vec<Value> {
    replicas(status).iter().map(|replica| replica["epoch"].clone()).collect()
}

/// Begins a stream that does not end for long, and reads its first tokens.
fn stream(api: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(api).expect("the head listens");
    let mut body = request(9);
    body["stream"] = json!(true);
    (body["max_tokens"], body["n"]) = (json!(1500), json!(32));
    let body = body.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(reader.read_line(&mut line).expect("UTF-8") > 0, "the stream ended at once");
    }
    reader
}

/// **G7**: the same processes, on the weights that they have, in a higher epoch.
#[test]
fn a_head_that_was_killed_takes_over_what_still_runs() {
    let mut cluster = Cluster::start();
    let Cluster { head, api, .. } = &mut cluster;
    let (before, mut open) = (head.status(), stream(api));
    head.process.kill();
    let mut rest = String::new();
    let ended = open.read_to_string(&mut rest);
    assert!(!rest.contains("[DONE]"), "nobody is told that all is well: {ended:?}");
    let chunked = rest.trim_end().ends_with("\r\n0");
    assert!(ended.is_err() || !chunked, "the response is cut, which its client can tell");

    for restart in 1..3u64 {
        let Cluster { head, api, .. } = &mut cluster;
        head.start_again();
        assert_eq!(head.api(), *api, "it is where it was");
        wait_until("all serve", || {
            replicas(&head.status()).iter().all(|replica| replica["state"] == "serving")
        });
        let status = head.status();
        assert_eq!(all_pids(&status), all_pids(&before), "the same processes serve");
        assert_eq!(epochs(&status), [1 + restart, 1 + restart], "G7: no epoch comes again");
        cluster.goes_on();
        cluster.head.process.kill();
    }
}

/// The other replica goes on alone, until the node is back.
#[test]
fn a_node_that_died_with_the_head_is_missed_and_no_more() {
    let mut cluster = Cluster::start();
    let Cluster { head, nodes, .. } = &mut cluster;
    let before = head.status();
    let on_a = |replica: &Value| replica["stages"][0]["shards"][0]["whereabouts"]["node"] == "a";
    let lost = replicas(&before).iter().position(on_a).expect("one is on each node");
    head.process.kill();
    nodes[0].kill();
    head.start_again();
    head.api();
    let status = head.status();
    let kept = &replicas(&status)[1 - lost];
    assert_eq!(kept["state"], "serving", "one is enough to begin with: {status}");
    assert_eq!(pids(kept), all_pids(&before)[1 - lost], "{status}");
    assert_ne!(replicas(&status)[lost]["state"], "serving", "{status}");
    cluster.goes_on();

    let Cluster { head, nodes, .. } = &mut cluster;
    nodes[0] = head.node(None, "a", None);
    wait_until("the other one is back", || {
        replicas(&head.status()).iter().all(|replica| replica["state"] == "serving")
    });
    let (status, other) = (head.status(), 1 - lost);
    assert_eq!(all_pids(&status)[other], all_pids(&before)[other], "nobody restarts for that");
    assert_ne!(all_pids(&status)[lost], all_pids(&before)[lost]);
    cluster.goes_on();
}

/// The head dies in the midst of a change: what is asked for now is what runs, and nothing else.
#[test]
fn another_layout_leaves_nothing_of_the_old_one() {
    let mut cluster = Cluster::start();
    let Cluster { head, .. } = &mut cluster;
    let mut seen: BTreeSet<u32> = all_pids(&head.status()).into_iter().flatten().collect();
    // It is written down when it is accepted, and takes a while.
    head.ask(&["scale", "tp", "1"]);
    head.process.kill();
    head.start_again();
    head.api();
    wait_until("all serve", || {
        let status = head.status();
        let replicas = replicas(&status);
        replicas.len() == 2 && replicas.iter().all(|replica| replica["state"] == "serving")
    });
    let now: BTreeSet<u32> = all_pids(&head.status()).into_iter().flatten().collect();
    assert_eq!(now.len(), 2, "a rank each: {}", head.status());
    seen.retain(|pid| !now.contains(pid));
    wait_until("the others have ended", || !seen.iter().any(|&pid| lives(pid)));
    cluster.goes_on();
}

/// What operators said of a replica holds for the next head as well, and for the one after that.
#[test]
fn a_drained_replica_rests_until_it_is_restarted() {
    let mut cluster = Cluster::start();
    cluster.head.ask(&["drain", "replica", "1", "--deadline", "0s", "--wait"]);
    let kept = pids(&replicas(&cluster.head.status())[0]);
    for restart in 1..3 {
        let Cluster { head, .. } = &mut cluster;
        head.process.kill();
        head.start_again();
        head.api();
        let status = head.status();
        let states: Vec<_> = replicas(&status).iter().map(|it| it["state"].clone()).collect();
        assert_eq!(states, ["serving", "drained"], "after restart {restart}: {status}");
        assert_eq!(all_pids(&status), [kept.clone(), vec![]], "after restart {restart}");
        cluster.goes_on();
    }
    // Its devices are free, and it is the only one: no other takes its place.
    let Cluster { head, .. } = &mut cluster;
    head.ask(&["remove", "replica", "0", "--deadline", "0s", "--force", "--wait"]);
    head.process.kill();
    head.start_again();
    head.api();
    let left = replicas(&head.status());
    let [only] = &left[..] else { panic!("{left:?}") };
    assert_eq!((&only["id"], &only["state"]), (&json!(1), &json!("drained")), "{left:?}");
    wait_until("there are devices", || {
        let status = head.status();
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.len() == 2 && nodes.iter().all(|node| node["connected"] == true)
    });
    head.ask(&["restart", "replica", "1", "--wait"]);
    assert_eq!(replicas(&head.status())[0]["state"], "serving");
    cluster.goes_on();
}

/// What operators said of a node holds for the next head as well.
#[test]
fn a_removed_node_stays_away() {
    let mut cluster = Cluster::start();
    let Cluster { head, nodes, .. } = &mut cluster;
    head.ask(&["drain", "node", "a", "--deadline", "0s", "--wait"]);
    head.ask(&["remove", "node", "a", "--wait"]);
    let [a, _] = nodes;
    let (status, said) = std::mem::replace(a, head.node(None, "a", None)).end();
    assert!(!status.success() && said.contains("was removed"), "{said}");
    head.process.kill();
    head.start_again();
    head.api();
    let (status, said) = head.node(None, "a", None).end();
    let way = "`playhouse undrain node a` lets it back";
    assert!(!status.success() && said.contains(way), "{said}");
    head.ask(&["undrain", "node", "a", "--wait"]);
    nodes[0] = head.node(None, "a", None);
    wait_until("it is back", || {
        let status = head.status();
        let nodes = status["nodes"].as_array().expect("nodes").clone();
        nodes.iter().any(|node| node["name"] == "a" && node["connected"] == true)
    });
    cluster.goes_on();
}
