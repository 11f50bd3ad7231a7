//! Several machines: nodes join a head, run its ranks, leave and come back.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::cluster::{Folder, Head, Process, post, wait_until};
use crate::load::under_load;
use crate::namespaces::Namespaces;
use crate::server::Server;

fn request(index: u64) -> Value {
    json!({
        "prompt": format!("Tell me {index} things about the sea"), "max_tokens": 200,
        "ignore_eos": true, "temperature": 0.8, "seed": index, "return_token_ids": true,
    })
}

fn tokens(reply: &Value) -> Value {
    reply["choices"][0]["token_ids"].clone()
}

/// Returns the answer of one server with the same layout.
fn expected(layout: &[&str], requests: u64) -> Vec<Value> {
    let server = Server::start(layout);
    let answer = |index| tokens(&server.post("/v1/completions", &request(index)).json());
    (0..requests).map(answer).collect()
}

#[test]
fn a_node_that_is_lost_and_returns_costs_no_token() {
    let layout = ["-tp", "2", "-pp", "2"];
    let expected = expected(&layout, 3);
    let mut head = Head::start(None, "127.0.0.1", &layout);
    let (first, second) = (head.token(), head.token());
    let _steady = head.node(None, "steady", Some(&first));
    let mut flaky = head.node(None, "flaky", Some(&second));
    let api = head.api();

    // Each stage sits on one node.
    let status = head.status();
    let stages = status["replicas"][0]["stages"].as_array().expect("stages");
    for stage in stages {
        let shards = stage["shards"].as_array().expect("shards");
        let node = |shard: usize| shards[shard]["whereabouts"]["node"].as_str().expect("a node");
        assert_eq!(node(0), node(1), "a stage stays on one node: {status}");
    }

    let state = || head.status()["replicas"][0]["state"].clone();
    let _back = under_load(
        &expected,
        |index| tokens(&post(&api, &request(index))),
        || {
            wait_until("tokens come", || {
                head.status()["replicas"][0]["generated_tokens"].as_u64() > Some(30)
            });
            flaky.kill();
            wait_until("the loss is seen", || state() != "serving");
            // Its certificate is kept: no token.
            head.node(None, "flaky", None)
        },
    );
    assert_eq!(state(), "serving");
}

#[test]
fn streams_move_to_the_replica_of_another_node() {
    let layout = ["-pp", "2", "-dp", "2"];
    let expected = expected(&["-pp", "2"], 4);
    let mut head = Head::start(None, "127.0.0.1", &layout);
    let mut nodes = ["a", "b"].map(|name| head.node(None, name, Some(&head.token())));
    let api = head.api();
    let status = head.status();
    let of = |replica: usize| {
        status["replicas"][replica]["stages"][0]["shards"][0]["whereabouts"]["node"].clone()
    };
    assert_ne!(of(0), of(1), "replicas are spread: {status}");
    thread::scope(|scope| {
        let answers: Vec<_> = (0..4)
            .map(|index| {
                let api = &api;
                scope.spawn(move || tokens(&post(api, &request(index))))
            })
            .collect();
        wait_until("both generate", || {
            let generated = |replica: &Value| replica["generated_tokens"].as_u64() > Some(20);
            head.status()["replicas"].as_array().expect("two").iter().all(generated)
        });
        // One that says goodbye, and so is not waited for.
        nodes[0].stop();
        for (answer, expected) in answers.into_iter().zip(&expected) {
            assert_eq!(answer.join().expect("answered"), *expected, "nobody comes back");
        }
    });
}

#[test]
fn whoever_may_not_join_gets_one_clear_line_and_nobody_else_notices() {
    let mut head = Head::start(None, "127.0.0.1", &["-pp", "2"]);
    let used = head.token();
    let _node = head.node(None, "a", Some(&used));
    let api = head.api();
    let folder = Folder::new();
    let dir = folder.join("node");
    let fresh = head.token();
    // Of the same authority, but another secret.
    let (body, digit) = used.split_at(used.len() - 65);
    let unknown = format!("playhouse-{}{}", "0".repeat(16), &used["playhouse-".len() + 16..]);
    let last = if body.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}{digit}", &body[..body.len() - 1]);
    let foreign = format!("{}{}", &fresh[..fresh.len() - 64], "ab".repeat(32));
    let cases: [(&str, &str, &str, &str); 8] = [
        ("b", &used, "cpu:1", "the token has been used"),
        ("b", &unknown, "cpu:1", "the head knows no such token"),
        ("b", &wrong, "cpu:1", "the token's secret is wrong"),
        ("b", &foreign, "cpu:1", "is not the head that made this token"),
        ("a", &fresh, "cpu:1", "the name a is taken by a node"),
        ("head", &fresh, "cpu:1", "the head's own machine has this name"),
        ("b", "playhouse-1", "cpu:1", "not a join token"),
        ("b", &fresh, "cpu:9999", "this machine has"),
    ];
    for (name, token, devices, reason) in cases {
        let words = ["node", "--join", &head.join, "--name", name, "--dir", &dir];
        let node = [&words[..], &["--token", token, "--devices", devices]].concat();
        let (status, said) = Process::start(None, &node).end();
        assert!(!status.success(), "{name} {token} {devices}");
        assert!(said.contains(reason), "wanted `{reason}`: {said}");
        assert!(!said.contains(&token[token.len() / 3..]), "a secret is shown: {said}");
    }
    // A node of another cluster has a certificate, but of another authority.
    let mut other = Head::start(None, "127.0.0.1", &["-pp", "2"]);
    let token = other.token();
    let stranger = other.node(None, "stranger", Some(&token));
    other.api();
    drop(stranger);
    let dir = other.folder().join("stranger");
    let dir = dir.to_str().expect("plain");
    let words = ["node", "--join", &head.join, "--name", "stranger", "--dir", dir];
    let (status, said) = Process::start(None, &words).end();
    assert!(!status.success() && said.contains("certificate"), "{said}");

    assert_eq!(tokens(&post(&api, &request(1))).as_array().map(Vec::len), Some(200));
    let nodes = head.status()["nodes"].as_array().expect("nodes").len();
    assert_eq!(nodes, 1, "nobody else came in");
}

#[test]
fn a_checkpoint_that_a_node_does_not_have_is_named() {
    let folder = Folder::new();
    let model = folder.0.join("model");
    fs::create_dir(&model).expect("writable");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/checkpoint");
    for file in fs::read_dir(demo).expect("the demo").flatten() {
        fs::copy(file.path(), model.join(file.file_name())).expect("copied");
    }
    let model = model.to_str().expect("plain");
    let head = Head::start(None, "127.0.0.1", &[model, "-pp", "2"]);
    fs::remove_dir_all(model).expect("removed");
    let token = head.token();
    let _node = head.node(None, "a", Some(&token));
    let Head { process, .. } = head;
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(1));
    let last = said.lines().last().expect("a reason");
    assert!(last.contains("replica-0 failed while starting") && last.contains(model), "{said}");
}

#[test]
fn a_node_that_returns_with_fewer_devices_is_told_so_and_the_requests_wait() {
    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let token = head.token();
    let mut node = head.node(None, "a", Some(&token));
    let api = head.api();
    thread::scope(|scope| {
        let answer = scope.spawn(|| tokens(&post(&api, &request(1))));
        wait_until("tokens come", || {
            head.status()["replicas"][0]["generated_tokens"].as_u64() > Some(10)
        });
        node.kill();
        wait_until("the loss is seen", || head.status()["nodes"][0]["connected"] == false);
        let dir = head.folder().join("a");
        let dir = dir.to_str().expect("plain");
        let words = ["node", "--join", &head.join, "--name", "a", "--dir", dir];
        let (status, said) =
            Process::start(None, &[&words[..], &["--devices", "cpu:1"]].concat()).end();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("it offers 1 devices, and ranks belong on 2"), "{said}");
        // Nor may somebody else have its name, with a token and a folder of its own.
        let (token, dir) = (head.token(), head.folder().join("other"));
        let dir = dir.to_str().expect("plain");
        let words = ["node", "--join", &head.join, "--name", "a", "--dir", dir, "--token", &token];
        let (status, said) = Process::start(None, &words).end();
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("the name a is taken by a node that is connected or"), "{said}");
        let _node = head.node(None, "a", None);
        assert_eq!(answer.join().expect("answered").as_array().map(Vec::len), Some(200));
    });
}

/// The page's own commands, with free ports and this machine for the head's.
#[test]
fn the_commands_of_the_cluster_page_make_a_cluster() {
    let page = include_str!("../../docs/cluster.md");
    let blocks = page.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let commands: Vec<&str> = lines.collect();
    let [local, init, serve, token, node] = commands[..] else { panic!("{commands:?}") };

    let arguments: Vec<&str> = local.split(' ').skip(2).collect();
    let server = Server::start(&arguments);
    assert!(server.banner.contains("2 replicas of 2 stages of 2 shards"), "{}", server.banner);
    drop(server);

    assert_eq!(init, "playhouse cluster init");
    let arguments = serve.strip_prefix("playhouse serve --cluster-listen 0.0.0.0:7100 ");
    let arguments: Vec<&str> = arguments.expect(serve).split(' ').collect();
    let mut head = Head::start(None, "127.0.0.1", &arguments);
    let _nodes = ["rack-1", "rack-2"].map(|name| {
        assert_eq!(token, "playhouse token create");
        let (token, dir) = (head.token(), head.folder().join(name));
        let node = node
            .replace("head.example:7100", &head.join)
            .replace("$TOKEN", &token)
            .replace("rack-1", name);
        let words: Vec<&str> = node.split(' ').skip(1).collect();
        let dir = dir.to_str().expect("plain");
        Process::start(None, &[&words[..], &["--dir", dir]].concat())
    });
    let api = head.api();
    assert_eq!(tokens(&post(&api, &request(1))).as_array().map(Vec::len), Some(200));
}

#[test]
fn two_nodes_in_network_namespaces_of_their_own_give_the_same_tokens() {
    let Some(spaces) = Namespaces::new(3) else {
        let text = b"\n*** NOT TESTED: network namespaces are not permitted here ***\n";
        // Past the capture of the test harness: a test that did not run says so.
        return std::io::stderr().write_all(text).expect("stderr is open");
    };
    let [head_space, first, second] = &spaces.0[..] else { panic!("three were made") };
    for layout in [&["-tp", "2", "-pp", "2"][..], &["-tp", "4"], &["-pp", "2", "-dp", "2"]] {
        let expected = expected(layout, 2);
        let mut head = Head::start(Some(head_space), "10.77.0.1", layout);
        let (one, two) = (head.token(), head.token());
        let _nodes = [
            head.node(Some(first), "first", Some(&one)),
            head.node(Some(second), "second", Some(&two)),
        ];
        let api = head.api();
        for (index, expected) in (0..).zip(&expected) {
            let url = format!("http://{api}/v1/completions");
            let body = request(index).to_string();
            let reply = Command::new("ip")
                .args(["netns", "exec", head_space, "curl", "-sf", &url, "-d", &body])
                .output()
                .expect("curl runs");
            let reply = serde_json::from_slice(&reply.stdout).expect("an answer");
            assert_eq!(tokens(&reply), *expected, "{layout:?}");
        }
        let status = head.status();
        let nodes = status["nodes"].as_array().expect("nodes");
        assert_eq!(nodes.len(), 2, "{status}");
        for node in nodes {
            let address = node["address"].as_str().expect("an address");
            assert!(address.starts_with("10.77.0."), "{address}");
        }
    }
}
