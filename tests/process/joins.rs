//! Joins that fail: whose reason is shown, and what they cost those who live.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cluster::{Head, Process, post, wait_until};
use crate::hangs::not_tested;
use crate::server::BINARY;

/// Names that joins have in a folder.
fn segments(folder: &str) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("playhouse-")).collect()
}

/// A folder of `/dev/shm`, which is the whole of it for who is started by [`Elsewhere::script`]. Removed when
/// dropped.
struct Elsewhere(String);

impl Elsewhere {
    fn new() -> Self {
        let folder = format!("/dev/shm/elsewhere-{}", std::process::id());
        fs::create_dir(&folder).expect("writable");
        Self(folder)
    }

    fn script(&self) -> String {
        format!("mount --bind {} /dev/shm && exec \"$@\"", self.0)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Where the rank is that is on this node.
fn on(head: &Head, node: &str) -> Option<Value> {
    let status = head.status();
    let shards = status["replicas"][0]["stages"][0]["shards"].as_array()?;
    let mut places = shards.iter().map(|shard| &shard["whereabouts"]);
    places.find(|place| place["node"] == node).cloned()
}

/// Two ranks that do not find each other, because one has another folder in the place of `/dev/shm`, wait
/// in their join when one of them dies. The other keeps its process, and its weights, for the next join.
#[test]
fn a_rank_that_dies_while_its_group_joins_costs_the_other_nothing() {
    let elsewhere = Elsewhere::new();
    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let node = |name| head.node_words(name, Some(&head.token()), "cpu:1");
    let words = [node("a"), node("b"), node("c")];
    let [a, b, c] = words.each_ref().map(|it| it.iter().map(String::as_str).collect::<Vec<_>>());
    let before = segments("/dev/shm");
    let _a = Process::start(None, &a);
    let b = Process::start_by(&elsewhere.script(), &b);
    wait_until("one of them waits in a join, or there is no namespace", || {
        b.has_ended()
            || segments("/dev/shm").len() > before.len()
            || !segments(&elsewhere.0).is_empty()
    });
    if b.has_ended() {
        return not_tested("no folder may be mounted here");
    }
    let (living, dying) = (on(&head, "a").expect("it sits"), on(&head, "b").expect("it sits"));
    // No agent is left to start it again, which would wait for the other in the same way.
    drop(b);
    let _c = Process::start(None, &c);
    let api = head.api();
    let after = on(&head, "a").expect("it sits");
    assert_eq!(after["pid"], living["pid"], "it was not started anew when {dying} was lost");
    assert!(on(&head, "c").is_some(), "{}", head.status());
    let answer = post(&api, &json!({ "prompt": "The sea", "max_tokens": 8, "ignore_eos": true }));
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    wait_until("no join has left anything", || segments("/dev/shm").len() <= before.len());
}

#[test]
fn the_reason_of_a_failed_join_is_that_of_the_rank_that_failed() {
    let script = "mount -t tmpfs -o size=700k tmpfs /dev/shm && exec \"$@\"";
    let mut server = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", BINARY, "serve", "-tp", "2", "--port", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut log = BufReader::new(server.stderr.take().expect("it is piped")).lines();
    let (mut heard, mut reasons) = (String::new(), Vec::new());
    while let Some(Ok(line)) = log.next() {
        heard += &line;
        heard.push('\n');
        if line.contains("restarting") || line.contains("replica failed") {
            reasons.push(line.clone());
        }
        if line.contains("replica failed") {
            break;
        }
    }
    drop(server.kill());
    drop(server.wait());
    if reasons.is_empty() && (heard.contains("unshare") || heard.contains("mount")) {
        return not_tested("no file system may be mounted here");
    }
    assert!(reasons.len() >= 2, "it is tried again, then given up: {heard}");
    for reason in &reasons {
        assert!(reason.contains("no room in /dev/shm for the 524288 bytes"), "{reason}");
        assert!(reason.contains("--shm-size"), "{reason}");
    }
}
