//! Ranks that are processes: they compute what one rank computes, die alone, and end with the head.

use std::fs;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::load::under_load;
use crate::server::Server;

/// Process ids of the children of a process, in the order they were started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(list.split_whitespace().map(|pid| pid.parse::<u32>().expect("a number")));
    }
    all.sort_unstable();
    all
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(status.expect("kill runs").success(), "process {pid} lives");
}

pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended; its parent has not noticed yet.
    !stat.is_empty() && !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

/// A request that runs for some hundred steps; greedy, seeded or with several choices.
pub(crate) fn long(index: u64) -> Value {
    json!({
        "prompt": format!("Once upon a time there were {index} little"),
        "max_tokens": 150,
        "ignore_eos": true,
        "temperature": if index.is_multiple_of(2) { 0.0 } else { 1.0 },
        "seed": 7,
        "n": 1 + index % 3,
        "return_token_ids": true,
    })
}

/// The tokens of every choice.
pub(crate) fn tokens(server: &Server, request: &Value) -> Vec<Value> {
    let response = server.post("/v1/completions", request);
    assert_eq!(response.status, 200, "{}", response.body);
    let reply = response.json();
    let choices = reply["choices"].as_array().expect("choices");
    choices.iter().map(|choice| choice["token_ids"].clone()).collect()
}

#[test]
fn the_death_of_any_rank_process_changes_no_token() {
    let server = Server::start(&["-tp", "2", "-pp", "2"]);
    let expected: Vec<_> = (0..6).map(|index| tokens(&server, &long(index))).collect();
    for victim in 0..4 {
        let before = children(server.pid());
        assert_eq!(before.len(), 4, "a process for each rank");
        let generated = server.metric("playhouse_generation_tokens_total");
        let restarts = server.metric("playhouse_replica_restarts_total");
        under_load(
            &expected,
            |index| tokens(&server, &long(index)),
            || {
                server.wait_until("all of them are on their way", |server| {
                    server.metric("playhouse_generation_tokens_total") > generated + 100.0
                });
                kill(before[victim], "KILL");
                server.wait_until("it is seen", |server| {
                    server.metric("playhouse_replica_restarts_total") > restarts
                });
            },
        );
        assert_eq!(server.metric("playhouse_replica_restarts_total"), restarts + 1.0);
        let after = children(server.pid());
        let kept = after.iter().filter(|pid| before.contains(pid)).count();
        assert_eq!((after.len(), kept), (4, 3), "only the dead rank is started anew");
    }
    server
        .wait_until("no block is held", |server| server.metric("playhouse_kv_blocks_held") == 0.0);
}

/// Deaths from outside are not blamed on the requests that were in flight.
#[test]
fn the_same_requests_outlive_death_after_death() {
    let server = Server::start(&["-tp", "2"]);
    let expected: Vec<_> = (0..6).map(|index| tokens(&server, &long(index))).collect();
    under_load(
        &expected,
        |index| tokens(&server, &long(index)),
        || {
            for death in 1..=4 {
                let generated = server.metric("playhouse_generation_tokens_total");
                server.wait_until("tokens come", |server| {
                    server.metric("playhouse_generation_tokens_total") > generated + 10.0
                });
                kill(children(server.pid())[0], "KILL");
                server.wait_until("it is seen", |server| {
                    server.metric("playhouse_replica_restarts_total") == f64::from(death)
                });
            }
        },
    );
}

#[test]
fn rank_processes_end_with_the_head_however_it_ends() {
    for signal in ["KILL", "TERM"] {
        let server = Server::start(&["-tp", "2", "-dp", "2"]);
        let ranks = children(server.pid());
        assert_eq!(ranks.len(), 4);
        server.signal(signal);
        let status = server.wait();
        assert_eq!(status.code(), (signal == "TERM").then_some(0));
        let started = std::time::SystemTime::now();
        while ranks.iter().any(|&pid| lives(pid)) {
            let waited = started.elapsed().unwrap_or_default();
            assert!(waited.as_secs() < 10, "rank processes live {waited:?} after {signal}");
            thread::yield_now();
        }
    }
}

#[test]
fn cold_prompts_spread_over_the_replicas_and_known_ones_return() {
    let server = Server::start(&["-dp", "2"]);
    for index in 0..8 {
        let prompt = format!("{index} is a number and {index} is the beginning of this prompt");
        tokens(&server, &json!({"prompt": prompt, "max_tokens": 1, "return_token_ids": true}));
    }
    let of = |engine: u32, name: &str| {
        let text = server.get("/metrics").body;
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && line.contains(&format!("engine=\"{engine}\"")));
        let line = line.expect("each replica has its series");
        line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")
    };
    let steps = "playhouse_iteration_tokens_count";
    let (first, second) = (of(0, steps), of(1, steps));
    assert!(first == second && first >= 4.0, "eight cold prompts, one at a time: {first} {second}");

    let known = "word ".repeat(200);
    for _ in 0..4 {
        tokens(&server, &json!({"prompt": known, "max_tokens": 1, "return_token_ids": true}));
    }
    let hits = "playhouse_prefix_cache_hits_total";
    let (first, second) = (of(0, hits), of(1, hits));
    assert!(first.min(second) == 0.0 && first.max(second) > 3.0 * 100.0, "{first} {second}");
}

#[test]
fn a_rank_process_shows_no_secret_and_serves_nobody_else() {
    let server = Server::start_with(&["-tp", "2"], &[("PLAYHOUSE_API_KEY", "sk-planted")]);
    for pid in children(server.pid()) {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(!text.contains("sk-planted"), "{file} of a rank");
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_playhouse"))
        .args(["shard", "--head", "127.0.0.1:9"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("standard input holds no identity"), "{said}");
    assert!(said.contains("people do not"), "{said}");
}
