//! Changes of what runs under streams, by the command line, on real processes: **G1**, **G4**.

use std::process::{Command, Output};
use std::thread;

use serde_json::{Value, json};

use crate::cluster::{ADMIN_TOKEN, Head, Process, post, wait_until};
use crate::server::Server;

/// Streams that run during a change.
const STREAMS: u64 = 8;

/// Long enough for changes to meet them, in either kind of build.
const TOKENS: u32 = if cfg!(debug_assertions) { 160 } else { 1500 };

/// Greedy and seeded, one and several choices.
fn request(index: u64) -> Value {
    json!({
        "prompt": format!("Tell me {index} things about the sea"),
        "max_tokens": TOKENS,
        "ignore_eos": true,
        "temperature": if index.is_multiple_of(2) { 0.0 } else { 0.8 },
        "seed": index,
        "n": 1 + index % 2,
        "return_token_ids": true,
    })
}

/// The tokens of every choice.
fn tokens(reply: &Value) -> Vec<Value> {
    let choices = reply["choices"].as_array().unwrap_or_else(|| panic!("choices: {reply}"));
    choices.iter().map(|choice| choice["token_ids"].clone()).collect()
}

/// Exact sums, so that a layout does not show in the tokens.
fn server(flags: &[&str]) -> Server {
    Server::start(&[&["--dtype", "f32", "--admin-token", ADMIN_TOKEN], flags].concat())
}

/// Runs a client command against the admin API that the banner names.
fn ask(server: &Server, words: &[&str]) -> Output {
    let line = server.banner.lines().find(|line| line.trim_start().starts_with("admin "));
    let url = line.and_then(|line| line.split_whitespace().nth(1)).expect("the banner names it");
    let url = url.strip_suffix("/admin/v1").expect("a path");
    let mut asking = Command::new(env!("CARGO_BIN_EXE_playhouse"));
    asking.args(words).args(["--admin", url, "--admin-token", ADMIN_TOKEN]);
    asking.output().expect("the binary starts")
}

fn done(server: &Server, words: &[&str]) {
    let asked = ask(server, words);
    assert!(asked.status.success(), "{words:?}: {}", String::from_utf8_lossy(&asked.stderr));
}

fn replicas(server: &Server) -> Vec<Value> {
    let status = ask(server, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    status["replicas"].as_array().expect("replicas").clone()
}

/// Ranks of each replica; all of them serve.
fn serving(server: &Server) -> Vec<usize> {
    let ranks = |replica: &Value| {
        assert_eq!(replica["state"], "serving", "{replica}");
        let stages = replica["stages"].as_array().expect("stages").iter();
        stages.map(|stage| stage["shards"].as_array().map_or(0, Vec::len)).sum()
    };
    replicas(server).iter().map(ranks).collect()
}

/// Makes a change while streams run, and holds them against `expected`.
fn under_streams(server: &Server, expected: &[Vec<Value>], change: impl FnOnce()) {
    let generated = server.metric("playhouse_generation_tokens_total");
    thread::scope(|scope| {
        let stream = |index| {
            scope.spawn(move || {
                let response = server.post("/v1/completions", &request(index));
                assert_eq!(response.status, 200, "{}", response.body);
                tokens(&response.json())
            })
        };
        let streams: Vec<_> = (0..STREAMS).map(stream).collect();
        server.wait_until("all of them are on their way", |server| {
            server.metric("playhouse_generation_tokens_total") > generated + 100.0
        });
        change();
        for (index, (stream, expected)) in streams.into_iter().zip(expected).enumerate() {
            assert_eq!(stream.join().expect("answered"), *expected, "G1: stream {index}");
        }
    });
}

#[test]
fn replicas_and_layouts_change_under_streams_and_no_token_does() {
    let server = server(&["--devices", "cpu:4"]);
    let answer = |index| tokens(&server.post("/v1/completions", &request(index)).json());
    let expected: Vec<_> = (0..STREAMS).map(answer).collect();
    let changes: [(&[&str], &[usize]); 6] = [
        (&["scale", "dp", "3", "--wait"], &[1, 1, 1]),
        (&["restart", "replica", "0", "--wait"], &[1, 1, 1]),
        (&["scale", "dp", "1", "--wait"], &[1]),
        (&["scale", "tp", "2", "--wait"], &[2]),
        (&["scale", "tp", "4", "--wait"], &[4]),
        (&["drain", "replica", "0", "--deadline", "0s", "--force", "--wait"], &[]),
    ];
    for (words, ranks) in changes {
        under_streams(&server, &expected, || {
            done(&server, words);
            if words[0] == "drain" {
                // Nobody is left: what runs is parked until somebody serves again.
                assert_eq!(replicas(&server)[0]["state"], "drained");
                done(&server, &["restart", "replica", "0", "--wait"]);
            } else {
                assert_eq!(serving(&server), ranks, "{words:?}");
            }
        });
    }
    assert_eq!(server.metric("playhouse_kv_blocks_held"), 0.0, "G5");
}

#[test]
fn stages_change_under_streams_and_no_token_does() {
    let server = server(&["--devices", "cpu:3", "-pp", "1"]);
    let answer = |index| tokens(&server.post("/v1/completions", &request(index)).json());
    let expected: Vec<_> = (0..STREAMS).map(answer).collect();
    under_streams(&server, &expected, || {
        done(&server, &["scale", "pp", "2", "--wait"]);
        assert_eq!(serving(&server), [2]);
    });
    let refused = ask(&server, &["scale", "dp", "2"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("2 replicas of 2 ranks need 4 devices, there are 3"), "{told}");
    let refused = ask(&server, &["scale", "pp", "9"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("the layout cannot run"), "{told}");
    assert!(!told.contains("\\n"), "several errors are one: {told}");
}

/// A node is cleared for maintenance: its replica goes to another one, and it leaves.
#[test]
fn a_node_is_drained_onto_another() {
    let mut head = Head::start(None, "127.0.0.1", &["-pp", "2", "-dp", "2"]);
    let nodes = ["a", "b"].map(|name| head.node(None, name, Some(&head.token())));
    let api = head.api();
    let _spare = head.node(None, "spare", Some(&head.token()));
    wait_until("the spare node is there", || {
        head.status()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3)
    });
    let expected: Vec<_> = (0..STREAMS).map(|index| tokens(&post(&api, &request(index)))).collect();
    thread::scope(|scope| {
        let stream = |index| {
            let api = &api;
            scope.spawn(move || tokens(&post(api, &request(index))))
        };
        let streams: Vec<_> = (0..STREAMS).map(stream).collect();
        head.ask(&["drain", "node", "a", "--deadline", "1s", "--wait"]);
        for (stream, expected) in streams.into_iter().zip(&expected) {
            assert_eq!(stream.join().expect("answered"), *expected, "G4");
        }
    });
    let status = head.status();
    let of = |replica: &Value| replica["stages"][0]["shards"][0]["whereabouts"]["node"].clone();
    let hosts: Vec<_> = status["replicas"].as_array().expect("two").iter().map(of).collect();
    assert!(hosts.contains(&"b".into()) && hosts.contains(&"spare".into()), "{status}");
    assert_eq!(status["nodes"][0]["drained"], true, "{status}");
    head.ask(&["remove", "node", "a"]);
    wait_until("it is forgotten", || {
        head.status()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2)
    });
    let [removed, _b] = nodes;
    let (status, said) = removed.end();
    assert!(
        !status.success() && said.contains("`playhouse undrain node a` lets it back"),
        "{said}"
    );
    assert_eq!(tokens(&post(&api, &request(1))), expected[1]);
}

#[test]
fn a_node_that_nobody_knows_is_not_changed() {
    let mut head = Head::start(None, "127.0.0.1", &["-dp", "2"]);
    let _node = head.node(None, "a", Some(&head.token()));
    head.api();
    for words in ["drain", "undrain", "remove"] {
        let command = [words, "node", "nope", "--admin", &head.admin];
        let (status, said) = Process::start(None, &command).end();
        assert_eq!(status.code(), Some(1), "{words}: {said}");
        assert!(said.contains("there is no node nope"), "{words}: {said}");
    }
    head.ask(&["undrain", "node", "a", "--wait"]);
}
