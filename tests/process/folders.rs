//! Two agents with one name: on one folder, and on two machines with copies of it.

use std::fs;

use serde_json::{Value, json};

use crate::cluster::{Head, Process, post, wait_until};
use crate::load::under_load;
use crate::server::Server;

/// Two ranks on one node.
const LAYOUT: [&str; 2] = ["-tp", "2"];

fn request(index: u64) -> Value {
    json!({
        "prompt": format!("Count {index} waves"), "max_tokens": 160, "ignore_eos": true,
        "temperature": 0.8, "seed": index, "return_token_ids": true,
    })
}

fn tokens(reply: &Value) -> Value {
    reply["choices"][0]["token_ids"].clone()
}

/// Returns the answer of one server with the same layout.
fn expected() -> Vec<Value> {
    let server = Server::start(&LAYOUT);
    (0..2).map(|index| tokens(&server.post("/v1/completions", &request(index)).json())).collect()
}

/// A head whose ranks are all on its node `a`, and the address of its API.
fn served() -> (Head, Process, String) {
    let mut head = Head::start(None, "127.0.0.1", &LAYOUT);
    let node = head.node(None, "a", Some(&head.token()));
    let api = head.api();
    (head, node, api)
}

/// A node `a` with a copy of the folder that the first has, as another machine would have it.
fn copy(head: &Head, name: &str, devices: &str) -> Process {
    let (own, dir) = (head.folder().join("a"), head.folder().join(name));
    fs::create_dir(&dir).expect("a folder can be made");
    fs::copy(own.join("identity"), dir.join("identity")).expect("it is kept");
    let dir = dir.to_str().expect("plain");
    let words = ["node", "--join", &head.join, "--name", "a", "--dir", dir, "--devices", devices];
    Process::start(None, &words)
}

fn epoch(head: &Head) -> Value {
    head.status()["replicas"][0]["epoch"].clone()
}

fn address(head: &Head) -> Value {
    head.status()["nodes"][0]["address"].clone()
}

#[test]
fn nf1_a_second_agent_with_a_folder_is_refused_at_once_and_the_first_loses_nothing() {
    let expected = expected();
    let (head, node, api) = served();
    let before = (epoch(&head), address(&head));
    let ask = |index| tokens(&post(&api, &request(index)));
    under_load(&expected, ask, || {
        wait_until("tokens come", || {
            head.status()["replicas"][0]["generated_tokens"].as_u64() > Some(10)
        });
        for token in [None, Some(head.token())] {
            let (status, said) = head.node(None, "a", token.as_deref()).end();
            assert_eq!(status.code(), Some(1), "{said}");
            let dir = head.folder().join("a");
            let reason = format!("--dir {}: process {} runs a node", dir.display(), node.pid());
            assert!(said.contains(&reason) && said.contains("another --dir"), "{said}");
        }
    });
    assert_eq!((epoch(&head), address(&head)), before, "the first one was not disturbed");
}

#[test]
fn lk9_copies_of_a_folder_wait_until_the_node_that_is_connected_has_gone() {
    let expected = expected();
    let (head, mut node, api) = served();
    let before = (epoch(&head), address(&head));
    let ask = |index| tokens(&post(&api, &request(index)));
    // One of them offers what could not be served.
    let (small, equal) = under_load(&expected, ask, || {
        let copies = (copy(&head, "small", "cpu:1"), copy(&head, "equal", "cpu:2"));
        let connected = before.1.as_str().expect("an address");
        let reason = format!("the name node a is taken: a process at {connected} is connected");
        for copy in [&copies.0, &copies.1] {
            assert!(copy.complains("is taken").contains(&reason));
        }
        // They try again, and are refused again.
        for _ in 0..6 {
            assert!(head.process.complains("was turned away").contains(&reason));
        }
        copies
    });
    assert_eq!((epoch(&head), address(&head)), before, "the first one was not disturbed");

    // Its successor is one of them, which has what the ranks need.
    drop(small);
    node.kill();
    wait_until("the copy is connected", || {
        let status = head.status();
        status["nodes"][0]["connected"] == true && status["nodes"][0]["address"] != before.1
    });
    let late = head.node(None, "a", None);
    assert!(late.complains("is taken").contains("trying again"), "the copy stays");
    assert_eq!(ask(0), expected[0]);
    drop(equal);
    wait_until("the first is back", || head.status()["replicas"][0]["state"] == "serving");
    assert_eq!(ask(1), expected[1]);
}

#[test]
fn ag1_an_agent_that_stood_still_while_another_took_its_name_keeps_trying() {
    let (head, node, api) = served();
    let first = address(&head);
    node.signal("STOP");
    // Held up for as long as the silence of the first takes to be noticed, and not refused.
    let second = copy(&head, "copy", "cpu:2");
    wait_until("the copy is connected", || {
        let status = head.status();
        status["nodes"][0]["connected"] == true && status["nodes"][0]["address"] != first
    });
    let taken = address(&head);
    node.signal("CONT");
    let said = node.complains("is taken");
    assert!(said.contains(taken.as_str().expect("an address")), "{said}");
    assert_eq!(address(&head), taken, "it does not displace the other");
    drop(second);
    wait_until("it is back", || {
        let status = head.status();
        status["nodes"][0]["connected"] == true && status["nodes"][0]["address"] != taken
    });
    assert_eq!(tokens(&post(&api, &request(0))).as_array().map(Vec::len), Some(160));
}
