//! `--access-log`: what is logged of requests, and what is not.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::wait_until;
use crate::server::Server;

fn start(name: &str, flags: &[&str]) -> (Server, PathBuf) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let flags = [&["--log-format", "json"], flags].concat();
    (Server::start_logged(&flags, &[], &path), path)
}

/// Returns the entries of the access log, in order.
fn entries(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).expect("the log");
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["target"] == "playhouse_gateway::access_log").collect()
}

#[test]
fn every_request_is_logged_when_its_response_has_ended() {
    let (server, log) = start("access.log", &["--access-log"]);
    server.get("/v1/models");
    server.get("/v1/a-secret-of-the-client");
    let body = json!({ "prompt": "another secret", "max_tokens": 4, "stream": true });
    let streamed = server.post("/v1/completions", &body).body.len() as u64;
    wait_until("three requests are logged", || entries(&log).len() == 3);
    let entries = entries(&log);
    let shown = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().expect(key).to_owned();
        let status = entry["status"].as_u64().expect("a status");
        (text("method"), text("path"), status, entry["complete"] == true)
    };
    let expected = [
        ("GET", "/v1/models", 200, true),
        ("GET", "unmatched", 404, true),
        ("POST", "/v1/completions", 200, true),
    ];
    let expected = expected.map(|(method, path, status, complete)| {
        (method.to_owned(), path.to_owned(), status, complete)
    });
    assert_eq!(entries.iter().map(shown).collect::<Vec<_>>(), expected);
    assert!(
        entries.iter().all(|it| it["client"].as_str().is_some_and(|at| at.starts_with("127.")))
    );
    let bytes = entries[2]["bytes"].as_u64().expect("bytes");
    // The rest of what came are the lengths of the chunks.
    assert!(0 < bytes && bytes <= streamed, "{bytes} of {streamed}");
    let text = fs::read_to_string(&log).expect("the log");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn nothing_is_logged_of_requests_by_default() {
    let (server, log) = start("no-access.log", &[]);
    assert_eq!(server.get("/v1/models").status, 200);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(entries(&log).is_empty());
}
