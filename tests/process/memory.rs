//! Ranks go where their weights and a KV cache fit, and the smallest device says how large that is.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cluster::{Head, Process, post, wait_until};
use crate::server::Server;

/// Tokens of one block, and of one sequence of full length.
const BLOCK: u64 = 16;
const CONTEXT: u64 = 2048;

fn request(index: u64) -> Value {
    json!({
        "prompt": format!("Weigh {index} stones"), "max_tokens": 120, "ignore_eos": true,
        "temperature": 0.8, "seed": index, "return_token_ids": true,
    })
}

fn tokens(reply: &Value) -> Value {
    reply["choices"][0]["token_ids"].clone()
}

/// A node that offers so much memory on each of its devices.
fn node(head: &Head, name: &str, devices: u64, mib_each: u64) -> Process {
    let (token, dir) = (head.token(), head.folder().join(name));
    let (devices, memory) = (format!("cpu:{devices}"), format!("{}MiB", devices * mib_each));
    let words = ["node", "--join", &head.join, "--name", name, "--token", &token, "--dir"];
    let more = [dir.to_str().expect("plain"), "--devices", &devices, "--memory", &memory];
    Process::start(None, &[&words[..], &more].concat())
}

/// Where the ranks of the only replica are.
fn hosts(head: &Head) -> BTreeSet<String> {
    let status = head.status();
    let shards = status["replicas"][0]["stages"][0]["shards"].as_array().expect("shards");
    let node = |shard: &Value| shard["whereabouts"]["node"].as_str().map(str::to_owned);
    shards.iter().filter_map(node).collect()
}

fn kv_blocks(head: &Head) -> u64 {
    head.status()["replicas"][0]["kv_blocks"].as_u64().expect("a number")
}

#[test]
fn mm1_a_node_that_is_too_small_gets_no_rank_and_is_named() {
    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let _small = node(&head, "small", 2, 2);
    let said = head.process.complains("too small are");
    for part in [
        "small cpu:0 with 2.0 MiB, small cpu:1 with 2.0 MiB: the largest rank needs ",
        "of weights, 1.0 MiB for the KV cache of one sequence of full length",
        "--devices",
        "--max-model-len",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let _large = node(&head, "large", 2, 64);
    let api = head.api();
    assert_eq!(hosts(&head), ["large".to_owned()].into());
    assert_eq!(tokens(&post(&api, &request(1))).as_array().map(Vec::len), Some(120));
}

#[test]
fn mm2_the_kv_cache_is_as_large_as_the_smallest_device_of_its_ranks_allows() {
    let server = Server::start(&["-tp", "2"]);
    let expected = tokens(&server.post("/v1/completions", &request(1)).json());
    drop(server);

    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let tight = node(&head, "tight", 1, 8);
    let _large = node(&head, "large", 1, 256);
    let api = head.api();
    assert_eq!(hosts(&head), ["tight".to_owned(), "large".to_owned()].into());
    let least = kv_blocks(&head);
    // 40 % of 8 MiB, in blocks of 8 KiB on each rank.
    assert_eq!(least, 409);
    assert!(least >= CONTEXT / BLOCK, "a sequence of full length fits");
    assert_eq!(tokens(&post(&api, &request(1))), expected);

    // A replica that moves to larger devices has a larger cache.
    let _other = node(&head, "other", 1, 64);
    wait_until("it has joined", || {
        head.status()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3)
    });
    drop(tight);
    wait_until("the replica has moved", || {
        hosts(&head) == ["large".to_owned(), "other".to_owned()].into()
            && head.status()["replicas"][0]["state"] == "serving"
    });
    assert_eq!(kv_blocks(&head), 3276, "40 % of 64 MiB");
    assert_eq!(tokens(&post(&api, &request(1))), expected);
}

#[test]
fn mm1_ranks_that_do_not_fit_on_this_machine_are_refused_at_the_start() {
    // Devices of one thread each, of which each has an equal share of the memory: too many of them.
    let words = ["serve", "--port", "0", "-tp", "2", "--devices", "cpu:1000000"];
    let (status, said) = Process::start(None, &words).end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("a device here has") && said.contains("--devices"), "{said}");
}
