//! Copies of a checkpoint that differ are told apart before they answer anybody.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Folder, Head, Process, post, wait_until};

const WEIGHTS: &str = "model.safetensors";

fn request() -> Value {
    json!({ "prompt": "The sea", "max_tokens": 24, "ignore_eos": true, "temperature": 0,
            "return_token_ids": true })
}

fn tokens(reply: &Value) -> Value {
    reply["choices"][0]["token_ids"].clone()
}

/// A copy of the demo, which a test may change.
fn model(folder: &Folder) -> PathBuf {
    let model = folder.0.join("model");
    fs::create_dir(&model).expect("writable");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/checkpoint");
    for file in fs::read_dir(demo).expect("the demo").flatten() {
        fs::copy(file.path(), model.join(file.file_name())).expect("copied");
    }
    model
}

/// Turns the sign of many weights, as another training of the same model would change all of them.
/// Doing it twice restores them. A process that has mapped the file keeps what it had.
fn change(model: &Path) {
    let file = model.join(WEIGHTS);
    let mut bytes = fs::read(&file).expect("it is there");
    let half = bytes.len() / 2;
    bytes[half..].iter_mut().skip(1).step_by(2).for_each(|byte| *byte ^= 0x80);
    let new = model.join("new");
    fs::write(&new, bytes).expect("writable");
    fs::rename(new, file).expect("of one folder");
}

#[test]
fn wt1_a_node_with_other_weights_is_named_and_the_head_does_not_start() {
    let folder = Folder::new();
    let model = model(&folder);
    let path = model.to_str().expect("plain");
    let head = Head::start(None, "127.0.0.1", &[path, "-tp", "2"]);
    // What the node has is what is there when it joins.
    change(&model);
    let _node = head.node(None, "b", Some(&head.token()));
    let Head { process, .. } = head;
    let (status, said) = process.end();
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().rfind(|line| line.starts_with("error:")).expect("a reason");
    let reason = format!("node b has other weights at {path} than the head");
    assert!(last.contains("replica-0") && last.contains(&reason), "{said}");
}

#[test]
fn wt1_a_replica_whose_files_were_changed_never_serves_beside_one_that_has_the_old_ones() {
    let folder = Folder::new();
    let model = model(&folder);
    let path = model.to_str().expect("plain");
    let mut head = Head::start(None, "127.0.0.1", &[path, "-dp", "2"]);
    let _nodes = ["a", "b"].map(|name| head.node(None, name, Some(&head.token())));
    let api = head.api();
    let expected = tokens(&post(&api, &request()));
    change(&model);

    // The process of one replica dies, and the next one reads what is there now.
    let replica = |index: usize| head.status()["replicas"][index].clone();
    let whereabouts = replica(1)["stages"][0]["shards"][0]["whereabouts"].clone();
    let pid = whereabouts["pid"].to_string();
    let killed = Command::new("kill").args(["-s", "KILL", &pid]).status();
    assert!(killed.expect("kill runs").success());
    wait_until("it has failed", || replica(1)["state"] == "failed");
    // It was tried on the other node as well (ND-6 of `nodes`).
    let reason = format!("has other weights at {path} than the head");
    let status = head.ask(&["status"]);
    assert!(status.contains(&reason), "{reason}: {status}");
    for _ in 0..8 {
        assert_eq!(tokens(&post(&api, &request())), expected, "the other one serves");
    }

    // With the files that the head knows it comes back.
    change(&model);
    head.ask(&["restart", "replica", "1", "--wait"]);
    assert_eq!(replica(1)["state"], "serving");
    for _ in 0..8 {
        assert_eq!(tokens(&post(&api, &request())), expected);
    }
}

/// A first start serves with what is good, and what is not waits for a node that is (**ND-6** of `nodes`).
#[test]
fn a_bad_node_keeps_neither_the_first_start_nor_a_replica_from_a_good_one() {
    let folder = Folder::new();
    let model = model(&folder);
    let path = model.to_str().expect("plain");
    let mut head = Head::start(None, "127.0.0.1", &[path, "-dp", "2"]);
    let node = |name| {
        let words = head.node_words(name, Some(&head.token()), "cpu:1");
        Process::start(None, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let replica = |index: usize| head.status()["replicas"][index].clone();
    let _a = node("a");
    let first = || (0..2).find(|index| replica(*index)["state"] == "serving");
    wait_until("one serves", || first().is_some());
    let (first, second) = (first().expect("it serves"), 1 - first().expect("it serves"));
    change(&model);
    let _b = node("b");
    wait_until("the other has failed", || replica(second)["state"] == "failed");
    let failed = head.ask(&["status"]);
    assert!(failed.contains(&format!("node b has other weights at {path}")), "{failed}");

    // With what the node has now it could serve, and is not relied on.
    change(&model);
    let _c = node("c");
    wait_until("it is there", || head.status()["nodes"].as_array().is_some_and(|it| it.len() == 3));
    head.ask(&["restart", "replica", &second.to_string(), "--wait"]);
    let on = replica(second)["stages"][0]["shards"][0]["whereabouts"]["node"].clone();
    assert_eq!((replica(second)["state"].clone(), on), (json!("serving"), json!("c")));
    assert_eq!(replica(first)["epoch"], 1, "it was never disturbed");
    let api = head.api();
    let expected = tokens(&post(&api, &request()));
    for _ in 0..8 {
        assert_eq!(tokens(&post(&api, &request())), expected);
    }
}
