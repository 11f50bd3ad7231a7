//! Who is let in, who comes first, and who waits for a replica: the flags and the file of
//! `docs/operations.md`.

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::Folder;
use crate::ranks::children;
use crate::server::{Response, Server};

const PAGE: &str = include_str!("../../docs/operations.md");

/// What a block of the page holds.
fn block(language: &str, word: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let blocks = PAGE.split(&fence).skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(word)).expect("the page has such a block")
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).expect("written");
    path
}

fn ask(server: &Server, headers: &str, more: &Value) -> Response {
    let mut body = json!({ "prompt": "Once", "max_tokens": 4, "ignore_eos": true });
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    server.send("POST", "/v1/completions", headers, &body.to_string())
}

/// Begins a stream that runs until it is dropped; `None` if it is refused.
fn hold(server: &Server, headers: &str, more: &Value) -> Option<TcpStream> {
    let mut body =
        json!({ "prompt": "Once", "max_tokens": 2000, "ignore_eos": true, "stream": true });
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
    );
    let mut stream = server.connect();
    stream.write_all([head, body].concat().as_bytes()).expect("the request is sent");
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).expect("it is answered");
    status.ends_with(b"200").then_some(stream)
}

/// What `openai-python` reads before it tries again: `retry-after-ms`, heeded up to a minute.
fn assert_says_when_to_come_back(response: &Response) {
    let millis: u64 = response.header("retry-after-ms").expect("there").parse().expect("a number");
    let seconds: u64 = response.header("retry-after").expect("there").parse().expect("a number");
    assert!((1000..=60_000).contains(&millis), "{millis}");
    assert_eq!(seconds, millis.div_ceil(1000));
}

#[test]
fn the_keys_and_the_command_of_the_page_work() {
    let path = file("keys.toml", block("toml", "[[key]]"));
    let command = block("sh", "--api-keys-file").trim();
    let arguments = command.strip_prefix("playhouse serve ").expect("it serves");
    let arguments = arguments.replace("keys.toml", path.to_str().expect("plain"));
    let server = Server::start(&arguments.split(' ').collect::<Vec<_>>());
    assert!(server.banner.contains("2 API keys"), "{}", server.banner);

    let (chat, batch) = ("x-api-key: change-me-chat\r\n", "x-api-key: change-me-batch\r\n");
    assert_eq!(ask(&server, "", &json!({})).status, 401);
    assert_eq!(ask(&server, "x-api-key: chat\r\n", &json!({})).status, 401);
    for key in [chat, batch] {
        let response = ask(&server, key, &json!({ "n": 4, "priority": -3 }));
        assert_eq!(response.status, 200, "{}", response.body);
    }
    // What can never fit is a mistake.
    for (key, more) in
        [(batch, json!({ "n": 5 })), (chat, json!({ "n": 128, "prompt": vec!["Once"; 5] }))]
    {
        let refused = ask(&server, key, &more);
        assert_eq!((refused.status, refused.header("retry-after")), (400, None));
        assert_eq!(refused.json()["error"]["code"], "request_too_large");
    }
    let full = |key: &str, more: &Value, status: u16| {
        let refused = RefCell::new(None);
        server.wait_until("there is no room", |server| {
            // The places of earlier requests may be free a little later than these are answered.
            let held = hold(server, key, more);
            let response = ask(server, key, &json!({}));
            let is_refused = held.is_some() && response.status != 200;
            refused.replace(Some(response));
            is_refused
        });
        let refused = refused.take().expect("asked at least once");
        assert_eq!(refused.status, status, "{}", refused.body);
        assert_says_when_to_come_back(&refused);
        refused.json()["error"]["code"].clone()
    };
    assert_eq!(full(batch, &json!({ "n": 4 }), 429), "rate_limit_exceeded");
    let all = json!({ "n": 128, "prompt": vec!["Once"; 4] });
    assert_eq!(full(chat, &all, 503), "overloaded");

    let metrics = server.send("GET", "/metrics", chat, "").body;
    for labels in [r#"reason="over_limit",key="batch"} "#, r#"reason="overloaded",key="chat"} "#] {
        assert!(metrics.contains(labels), "{labels} in {metrics}");
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_bad_file_of_keys_is_refused_with_a_line_for_each_place() {
    let text =
        "[[key]]\nname = 'a'\nkey = 'x'\n[[key]]\nname = 'a'\nkey = 'y'\n[[key]]\nname = 'b'\n";
    let (twice, unknown) =
        (file("twice.toml", text), file("unknown.toml", "[[key]]\nnmae = 'a'\n"));
    let missing = twice.with_file_name("no-such-file.toml");
    let places = format!(
        "error: {0}:5:8: the same name as in line 2\nerror: {0}:7:1: give either key or key_sha256\n",
        twice.display()
    );
    let unknown_place = format!("error: {}:2:1: unknown field `nmae`", unknown.display());
    for (path, expected) in [
        (&twice, &*places),
        (&unknown, &*unknown_place),
        (&missing, "no-such-file.toml: No such file"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_playhouse"))
            .args(["serve", "--port", "0", "--api-keys-file"])
            .arg(path)
            .stdout(Stdio::null())
            .output()
            .expect("the binary starts");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

fn kill_children(server: &Server) {
    for child in children(server.pid()) {
        // It may have gone by itself.
        let killed = Command::new("kill").args(["-s", "KILL", &child.to_string()]).output();
        drop(killed.expect("kill runs"));
    }
}

/// **G1**: a request that comes while the only replica is gone waits for it.
#[test]
fn g1_requests_wait_for_the_only_replica() {
    let server = Server::start(&["--isolation", "process"]);
    kill_children(&server);
    let response = ask(&server, "", &json!({}));
    assert_eq!(response.status, 200, "{}", response.body);
}

/// **G1**: one that nobody serves within the time is refused, with the reason. The stream that was
/// running ends with an error event.
#[test]
fn g1_requests_wait_as_long_as_the_flag_says() {
    let timeout = Duration::from_secs(4);
    let folder = Folder::new();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/checkpoint");
    for file in fs::read_dir(demo).expect("the demo").flatten() {
        fs::copy(file.path(), folder.0.join(file.file_name())).expect("copied");
    }
    let model = folder.0.to_str().expect("plain");
    let server = Server::start(&[model, "--isolation", "process", "--no-capacity-timeout", "4s"]);
    let (whole, waited, streamed) = thread::scope(|scope| {
        let server = &server;
        let stream = move || ask(server, "", &json!({ "max_tokens": 200, "stream": true }));
        // One after the other, until one does not come to its end.
        let streamed = scope.spawn(move || {
            let mut streams = std::iter::repeat_with(stream);
            streams.find(|answer| !answer.body.contains("[DONE]")).expect("without end")
        });
        server.wait_until("it runs", |server| server.metric("playhouse_requests_running") > 0.0);
        // Whoever dies now does not come back.
        drop(folder);
        kill_children(server);
        let whole = scope.spawn(move || {
            let start = SystemTime::now();
            (ask(server, "", &json!({})), start.elapsed().expect("a clock"))
        });
        server
            .wait_until("it is parked", |server| server.metric("playhouse_requests_parked") > 0.0);
        let (whole, waited) = whole.join().expect("answered");
        (whole, waited, streamed.join().expect("answered"))
    });
    assert!(waited >= timeout, "{waited:?}");
    assert_eq!(whole.status, 503, "{}", whole.body);
    assert!(whole.body.contains("within 4 s: replica-0 "), "{}", whole.body);
    assert_says_when_to_come_back(&whole);
    // Its head may have been sent before its replica died, or not.
    assert!(streamed.body.contains(r#""code":"unavailable""#), "{}", streamed.body);
    assert!(!streamed.body.contains("[DONE]"), "{}", streamed.body);
    server.wait_until("all have left", |server| server.metric("playhouse_requests_parked") == 0.0);
}
