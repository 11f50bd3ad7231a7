//! `playhouse status` and `playhouse token`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use playhouse_admin::view::Cluster;
use playhouse_cluster::{Phase, ReplicaState};
use serde_json::json;

use crate::head::{Head, TOKEN};
use crate::ports::port;
use crate::server::{Reply, Server};
use crate::{Finished, Folder, playhouse, run};

fn ask(head: &Head, command: &[&str]) -> Finished {
    let url = head.url();
    run(&[command, &["--admin", &url, "--admin-token", TOKEN]].concat())
}

/// One line of error, one of hint, nothing else.
fn refused(finished: &Finished, code: i32, error: &str, hint: &str) {
    assert_eq!((finished.code, finished.stdout.as_str()), (code, ""), "{}", finished.stderr);
    let lines: Vec<&str> = finished.stderr.lines().collect();
    let [first, second] = lines[..] else { panic!("{lines:?}") };
    assert!(first.starts_with("error: ") && first.contains(error), "{first}");
    assert!(second.starts_with("hint: ") && second.contains(hint), "{second}");
    assert!(!finished.stderr.contains('\u{1b}'), "{:?}", finished.stderr);
}

/// ST-1, ST-2
#[test]
fn the_exit_code_says_whether_all_serve() {
    let dead = || "killed by \u{1b}[31mSIGKILL".to_owned();
    for (state, code) in [
        (ReplicaState::Serving, 0),
        (ReplicaState::Starting, 1),
        (ReplicaState::Restarting { reason: dead() }, 1),
        (ReplicaState::Failed { reason: dead() }, 1),
        (ReplicaState::Stopped, 1),
    ] {
        let head = Head::start(state);
        let shown = ask(&head, &["status"]);
        assert_eq!((shown.code, shown.stderr.as_str()), (code, ""));
        assert!(shown.stdout.starts_with(&format!("{} of 1 replicas serve", 1 - code)));
        for part in ["node\\u{1b}[2J", "└─ shard 0  ready", "4242", "0-23", "1.0 GiB", "16/64"]
        {
            assert!(shown.stdout.contains(part), "{part} in\n{}", shown.stdout);
        }
        assert!(!shown.stdout.contains('\u{1b}'), "{:?}", shown.stdout);
        assert_eq!(ask(&head, &["status", "--json"]).code, code);
    }
    let head = Head::start(ReplicaState::Serving);
    head.change(|cluster| cluster.replicas.clear());
    assert_eq!(ask(&head, &["status"]).code, 1, "nothing serves");
}

#[test]
fn json_is_that_of_the_api() {
    let head = Head::start(ReplicaState::Serving);
    let shown = ask(&head, &["status", "--json"]);
    assert_eq!(shown.stdout.lines().count(), 1);
    let read: Cluster = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(read, head.status().into());
}

#[test]
fn a_head_that_is_not_there_is_one_line_and_a_hint() {
    let url = format!("http://127.0.0.1:{}", port());
    for command in [&["status"][..], &["status", "--watch"], &["token", "create"]] {
        let finished = run(&[command, &["--admin", &url, "--admin-token", "t"]].concat());
        refused(&finished, 1, "cannot connect", "`playhouse serve` prints");
    }
}

#[test]
fn a_wrong_token_is_one_line_and_a_hint() {
    let head = Head::start(ReplicaState::Serving);
    let url = head.url();
    for token in [&[][..], &["--admin-token", "wrong"], &["--admin-token", ""]] {
        for command in [&["status"][..], &["token", "create"]] {
            let finished = run(&[command, &["--admin", &url], token].concat());
            refused(&finished, 1, "401", "--admin-token-file");
        }
    }
    let finished = run(&["status", "--admin", &url, "--admin-token", "a\nb"]);
    assert_eq!(finished.code, 2, "{}", finished.stderr);
}

#[test]
fn the_token_comes_from_a_flag_the_environment_or_a_file() {
    let head = Head::start(ReplicaState::Serving);
    let (url, folder) = (head.url(), Folder::new());
    let status = |variable: &str, flags: &[&str]| -> Finished {
        let args = [&["status", "--admin", &url], flags].concat();
        let mut command = playhouse(&args);
        command.env("PLAYHOUSE_ADMIN_TOKEN", variable).output().expect("it starts").into()
    };
    let file = folder.write("token", format!("{TOKEN}\n"));
    assert_eq!(status(TOKEN, &[]).code, 0);
    assert_eq!(status("wrong", &["--admin-token", TOKEN]).code, 0);
    assert_eq!(status("wrong", &["--admin-token-file", &file]).code, 0);
    let (empty, binary) = (folder.write("empty", "\n"), folder.write("binary", [0xff, 0xfe]));
    for wrong in [&empty, &binary, folder.path(), "/nonexistent"] {
        let finished = status(TOKEN, &["--admin-token-file", wrong]);
        assert_eq!(finished.code, 2, "{}", finished.stderr);
        assert!(finished.stderr.contains(wrong), "{}", finished.stderr);
    }
}

#[test]
fn another_server_at_the_address_is_told() {
    let status = |reply: fn() -> Reply| {
        let server = Server::start(move |_| reply());
        run(&["status", "--admin", &server.url(), "--admin-token", TOKEN])
    };
    let address = "is that the address of the admin API?";
    let not_found = || Reply::Whole(404, json!({"error": {"message": "no \u{1b}[2J here"}}));
    refused(&status(not_found), 1, "404 Not Found: no \\u{1b}[2J here", address);
    refused(&status(|| Reply::Whole(200, json!({"status": "ok"}))), 1, "missing field", address);
    refused(&status(|| Reply::Whole(200, json!("\u{1b}[2J"))), 1, "not the admin API's", address);
    refused(&status(|| Reply::Whole(200, json!("x".repeat(17 << 20)))), 1, "longer than", address);
    refused(&status(|| Reply::Close), 1, "", address);
}

/// ST-3
#[test]
fn watching_goes_on_while_the_head_is_away() {
    let head = Head::start(ReplicaState::Serving);
    let (url, address) = (head.url(), head.address);
    let mut child = playhouse(&["status", "--watch", "--admin", &url, "--admin-token", TOKEN])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut shown = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut until = |text: &str| {
        let found = shown.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        assert!(found.is_some(), "{text}");
    };
    until("1 of 1 replicas serve");
    head.change(|cluster| cluster.replicas[0].state = ReplicaState::Starting);
    until("0 of 1 replicas serve");
    drop(head);
    let mut told = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    // A question that was under way when the head left has an error of its own.
    while !line.starts_with("error: cannot connect") {
        line.clear();
        assert!(told.read_line(&mut line).expect("UTF-8") > 0, "it goes on");
    }
    let _head = Head::at(address, ReplicaState::Serving);
    until("1 of 1 replicas serve");
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    told.read_to_string(&mut line).expect("UTF-8");
    assert!(!line.contains("panicked"), "{line}");
}

#[test]
fn a_token_is_alone_on_standard_output() {
    let head = Head::start(ReplicaState::Serving);
    for (flags, seconds) in [
        (&[][..], 3600),
        (&["--ttl", "90"], 90),
        (&["--ttl", "15m"], 900),
        (&["--ttl=7d"], 604_800),
    ] {
        let made = ask(&head, &[&["token", "create"], flags].concat());
        assert_eq!((made.code, made.stdout), (0, format!("token-for-{seconds}\n")));
        assert!(made.stderr.contains("playhouse node --join"), "{}", made.stderr);
        assert!(made.stderr.contains(&format!(" {seconds} s")), "{}", made.stderr);
    }
}

#[test]
fn times_that_no_token_can_have_are_refused() {
    let head = Head::start(ReplicaState::Serving);
    for ttl in ["0", "-1", "-1h", "8d", "9223372036854775807"] {
        let finished = ask(&head, &["token", "create", &format!("--ttl={ttl}")]);
        assert_eq!((finished.code, finished.stdout.as_str()), (1, ""));
        assert!(finished.stderr.contains("ttl_seconds: must be"), "{}", finished.stderr);
    }
    for ttl in ["", "soon", "1.5h", "9223372036854775808", "9223372036854775807d"] {
        let finished = ask(&head, &["token", "create", &format!("--ttl={ttl}")]);
        assert_eq!(finished.code, 2, "{}", finished.stderr);
    }
}

/// As they stand there, but for the address; what runs until somebody leaves is tested above and in
/// `top`.
#[test]
fn the_commands_of_the_docs_work() {
    // Operations are done at once, but for one that can be aborted.
    let head = Head::doing(|ledger, id| ledger.end(id, Phase::Done));
    let busy = Head::doing(|_, _| {});
    assert_eq!(ask(&busy, &["restart", "replica", "0"]).code, 0);
    let changes = ["scale", "drain", "undrain", "restart", "remove", "operations", "abort"];
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let mut run = 0;
    for page in ["README.md", "docs/operations.md"] {
        let path = format!("{}/../../{page}", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(path).expect("the page");
        let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        for command in blocks.flat_map(str::lines) {
            let is_change = |name: &&str| command.starts_with(&format!("playhouse {name}"));
            let ends = command.contains(" status")
                || command.contains(" token")
                || changes.iter().any(is_change);
            let asks = command.contains(":8001/") && has_curl;
            if !(ends || asks) || command.contains("status --watch") {
                continue;
            }
            let command = command
                .replace("http://127.0.0.1:8001", &head.url())
                .replace("playhouse ", &format!("{} ", env!("CARGO_BIN_EXE_playhouse")));
            let head = if command.contains(" abort ") { &busy } else { &head };
            // A node or replica of the docs need not be there.
            let command = command.replace("replica 1", "replica 0");
            let command = if ends { command + " --admin " + &head.url() } else { command };
            let mut shell = Command::new("sh");
            shell.args(["-c", &command]).env("PLAYHOUSE_ADMIN_TOKEN", TOKEN);
            let finished = Finished::from(shell.output().expect("a shell"));
            assert_eq!(finished.code, 0, "{command}\n{}", finished.stderr);
            assert!(!finished.stdout.starts_with("{\"error\""), "{command}\n{}", finished.stdout);
            run += 1;
        }
    }
    assert!(run >= 20, "{run}");
}
