//! Nodes that are started by others than people: a token in a file that the head keeps, a name after the
//! host, and a health check.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::cluster::{Folder, Head, Process, post, wait_until};

/// A health check: whether all is well, and the line that says so.
fn health(words: &[&str]) -> (bool, String) {
    let program = env!("CARGO_BIN_EXE_playhouse");
    let output = std::process::Command::new(program)
        .args(["doctor", "--health"])
        .args(words)
        .output()
        .expect("the binary starts");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("plain")
}

/// Starts a node that takes its token from a file.
fn node(head: &str, token: &str, dir: &str, more: &[&str]) -> Process {
    let words = ["node", "--join", head, "--token-file", token, "--dir", dir];
    Process::start(None, &[&words, more].concat())
}

#[test]
fn as_many_nodes_as_come_at_once_join_by_one_file_each_with_a_token_of_its_own() {
    let folder = Folder::new();
    let token = folder.join("token");
    let mut head = Head::start(None, "127.0.0.1", &["-dp", "4", "--join-token-file", &token]);
    let first = fs::read_to_string(&token).expect("it is there before nodes are waited for");
    let names = ["a", "b", "c", "d"];
    let dirs = names.map(|name| folder.join(name));
    let start = |at: usize| node(&head.join, &token, &dirs[at], &["--name", names[at]]);
    let nodes = [0, 1, 2, 3].map(start);
    let api = head.api();
    let answer = post(&api, &json!({ "prompt": "The sea", "max_tokens": 4 }));
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let last = fs::read_to_string(&token).expect("it is still there");
    assert_ne!(first, last, "a used token is replaced");

    for dir in &dirs {
        wait_until("a node says that it has its head", || {
            let (well, said) = health(&["--node-dir", dir]);
            assert!(!well || said.contains(&head.join), "{said}");
            well
        });
    }
    let port = api.rsplit(':').next().expect("a port");
    assert!(health(&["--port", port]).0, "{}", health(&["--port", port]).1);

    head.process.kill();
    for dir in &dirs {
        wait_until("a node says that it has none", || !health(&["--node-dir", dir]).0);
        let (_, said) = health(&["--node-dir", dir]);
        assert!(said.contains("fail  health") && said.contains("looks for the head"), "{said}");
    }
    let (well, said) = health(&["--port", port]);
    assert!(!well && said.contains("no request is taken"), "{said}");
    drop(nodes);
    let (well, said) = health(&["--node-dir", &dirs[0]]);
    assert!(!well && said.contains("no node answers"), "{said}");
}

#[test]
fn a_node_waits_for_the_file_and_comes_back_under_the_name_it_had() {
    let folder = Folder::new();
    let (token, dir) = (folder.join("token"), folder.join("node"));
    let mut head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    // Its name is that of its host.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux").to_lowercase();
    let name = name.trim().split('.').next().expect("a name").to_owned();
    let devices = ["--devices", "cpu:2"];
    let mut waiting = node(&head.join, &token, &dir, &devices);
    // It has started: what it will keep is prepared before it looks for the token.
    let prepared = Path::new(&dir).join("identity.new");
    wait_until("it looks for a token", || prepared.exists());
    fs::write(&token, head.token()).expect("a file can be written");
    let api = head.api();
    assert_eq!(head.status()["nodes"][0]["name"], name.as_str());
    waiting.stop();
    wait_until("it has left", || head.status()["nodes"][0]["connected"] == false);

    // Neither a name nor a token that is good.
    let _again = node(&head.join, &token, &dir, &devices);
    wait_until("it is back", || head.status()["replicas"][0]["state"] == "serving");
    assert_eq!(head.status()["nodes"].as_array().map(Vec::len), Some(1));
    post(&api, &json!({ "prompt": "The sea", "max_tokens": 4 }));
}

#[test]
fn who_cannot_join_by_a_file_gets_one_clear_line() {
    let folder = Folder::new();
    let (token, dir) = (folder.join("token"), folder.join("node"));
    let head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let used = head.token();
    let _other = head.node(None, "other", Some(&used));
    wait_until("the token is used", || {
        head.status()["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1)
    });
    // Nobody renews it. The wait for that is in parallel with what follows.
    fs::write(&token, &used).expect("a file can be written");
    let spent = node(&head.join, &token, &dir, &["--name", "late"]);

    let second = folder.join("second");
    let stopped = node(&head.join, &folder.join("none"), &second, &["--name", "stopped"]);
    wait_until("it looks for a token", || Path::new(&second).join("identity.new").exists());
    let pid = stopped.pid().to_string();
    let asked = std::process::Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(asked.expect("kill runs").success());
    let (status, said) = stopped.end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("stopped by SIGTERM before it had joined"), "{said}");

    let (status, said) = spent.end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("the token has been used"), "{said}");
    assert!(!said.contains(&used[used.len() / 3..]), "a secret is shown: {said}");

    let missing = folder.join("no-folder/token");
    let own = head.folder().join("authority");
    let words = ["serve", "--port", "0", "--cluster-listen", "127.0.0.1:0", "--cluster-dir"];
    let more = [plain(&own), "--join-token-file", &missing];
    let (status, said) = Process::start(None, &[&words[..], &more].concat()).end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("--join-token-file") && said.contains(&missing), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_cluster_port_in_use_is_named() {
    let head = Head::start(None, "127.0.0.1", &["-tp", "2"]);
    let own = head.folder().join("authority");
    let words = ["serve", "--port", "0", "--cluster-dir", plain(&own)];
    let more = ["--cluster-listen", &head.join];
    let (status, said) = Process::start(None, &[&words[..], &more].concat()).end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains(&head.join) && said.contains("in use"), "{said}");
}
