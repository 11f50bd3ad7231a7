//! What operators asked for, over restarts of the head, and who asked.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::Folder;
use crate::server::Server;

const TOKEN: &str = "admin-token-of-a-test";

/// A head with more flags, its admin API on a free port.
fn start(flags: &[&str]) -> Server {
    Server::start(&[&["--isolation", "thread", "--admin-token", TOKEN], flags].concat())
}

/// Runs a command against the admin API that the banner names.
fn ask(server: &Server, command: &[&str]) -> Output {
    let line = server.banner.lines().find(|line| line.trim_start().starts_with("admin "));
    let url = line.and_then(|line| line.split_whitespace().nth(1)).expect("the banner names it");
    let url = url.strip_suffix("/admin/v1").expect("a path");
    let mut asking = Command::new(env!("CARGO_BIN_EXE_playhouse"));
    asking.args(command).args(["--admin", url, "--admin-token", TOKEN]);
    asking.output().expect("the binary starts")
}

/// G7
#[test]
fn what_was_asked_for_survives_a_restart_of_the_head() {
    let folder = Folder::new();
    let state = folder.join("state");
    let flags = ["--state-dir", &state, "--devices", "cpu:2"];
    let first = start(&flags);
    assert!(first.banner.contains("1 replica of 1 stage"), "{}", first.banner);
    let scaled = ask(&first, &["scale", "dp", "2", "--wait", "--key", "k"]);
    let told = String::from_utf8_lossy(&scaled.stderr);
    assert!(scaled.status.success(), "{told}");
    assert_eq!(String::from_utf8_lossy(&scaled.stdout), "operation 1 is done\n");
    assert!(told.contains("replica"), "each step is told: {told}");
    let second = Command::new(env!("CARGO_BIN_EXE_playhouse"))
        .args(["serve", "--port", "0", "--state-dir", &state])
        .output()
        .expect("the binary starts");
    let refused = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{refused}");
    assert!(refused.contains("in use by another head") && refused.contains(&state), "{refused}");
    first.signal("KILL");
    first.wait();

    let again = start(&flags);
    assert!(again.banner.contains("2 replicas of 1 stage"), "{}", again.banner);
    assert!(again.banner.contains("the flags say dp 1, tp 1, pp 1"), "{}", again.banner);
    assert_eq!(ask(&again, &["status"]).status.code(), Some(0));
    let known = ask(&again, &["operations", "1"]);
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    assert!(known.contains("scale to dp 2") && known.contains("key k"), "{known}");
    drop(again);

    let without = start(&["-dp", "1"]);
    assert!(without.banner.contains("lasts until a restart"), "{}", without.banner);
}

/// AUD-1, AUD-2
#[test]
fn the_audit_log_says_who_asked_for_what() {
    let folder = Folder::new();
    let path = folder.join("audit.jsonl");
    // As the docs have it, but for the folder.
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let docs = fs::read_to_string(docs).expect("the page");
    let command = docs.lines().find_map(|line| line.strip_prefix("playhouse serve --state-dir "));
    let command = format!("--state-dir {}", command.expect("the command"));
    let command = command.replace("/var/lib/playhouse", &folder.join(""));
    let server = start(&command.split(' ').collect::<Vec<_>>());
    assert!(ask(&server, &["status"]).status.success(), "reading is not logged");
    // This head admits no nodes, so it is refused; that it was asked for is logged all the same.
    assert!(!ask(&server, &["token", "create", "--ttl", "5s"]).status.success());
    let text = fs::read_to_string(&path).expect("the log");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [asked, answered] = &lines[..] else { panic!("{text}") };
    assert_eq!((&asked["event"], &answered["event"]), (&"asked".into(), &"answered".into()));
    assert_eq!(asked["change"]["ttl_seconds"], 5);
    assert_eq!((&answered["status"], &answered["code"]), (&503.into(), &"not_listening".into()));
    assert!(asked["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    assert!(asked["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{text}");
    assert!(!text.contains(TOKEN), "{text}");
    drop(server);

    if fs::metadata("/dev/full").is_err() {
        eprintln!("SKIPPED: there is no /dev/full, so no full disk was tried");
        return;
    }
    let server = start(&["--audit-log", "/dev/full"]);
    let refused = ask(&server, &["token", "create"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("the audit log cannot be written") && told.contains("space"), "{told}");
    assert!(ask(&server, &["status"]).status.success(), "serving goes on");
}
