//! SIGTERM of `playhouse serve`: what runs ends within `--shutdown-timeout`, and whoever waits is told.
//!
//! - **SD-1** at the deadline a stream ends with an error event `draining`, and any other request with 503
//!   `draining`, be it running, queued, parked or not yet sent to its end; the exit status is 0.
//! - **SD-2** until then `/readyz` says 503, new generations are refused, and the listener accepts.
//! - **SD-3** a connection that waits in the kernel's queue is answered.
//! - **SD-4** idle connections and ranks that hang delay nothing.
//! - **SD-5** the log says at its default level that the shutdown has begun, until when, and meanwhile how
//!   many requests it waits for.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::Folder;
use crate::ranks::{children, kill, lives};
use crate::server::{Response, Server};

/// By how much a busy machine may exceed the time that a shutdown has.
const MARGIN: Duration = Duration::from_secs(15);

/// One sequence at a time, with room for many: they take minutes together, on any machine.
const SLOW: [&str; 6] = ["--threads", "1", "--max-num-seqs", "1", "--max-queued-requests", "4096"];

/// A request of many choices.
fn work(more: &Value) -> String {
    let mut body = json!({ "prompt": "hello", "max_tokens": 900, "ignore_eos": true, "temperature": 0, "n": 128 });
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    body.to_string()
}

/// Sends the head of a request and so much of its body.
fn send(server: &Server, body: &str, sent: usize) -> BufReader<TcpStream> {
    let mut stream = server.connect();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let (length, part) = (body.len(), &body[..sent]);
    write!(stream, "{head}content-length: {length}\r\n\r\n{part}").expect("sent");
    BufReader::new(stream)
}

/// A stream whose first event has come.
fn stream(server: &Server) -> BufReader<TcpStream> {
    let body = work(&json!({ "stream": true }));
    let mut reader = send(server, &body, body.len());
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("a line"), 0, "no event came");
    }
    reader
}

/// What else comes on a connection that the server ends, not the network.
fn rest(mut reader: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("an end, no reset");
    text
}

/// The stream was ended by an error event of this code, and by nothing else.
fn assert_ends_with(code: &str, text: &str) {
    assert!(text.ends_with("\r\n0\r\n\r\n"), "the body has no end: {text:?}");
    assert!(!text.contains("[DONE]"), "{text}");
    let last = text.lines().rfind(|line| line.starts_with("data: ")).expect("an event");
    let error: Value = serde_json::from_str(&last["data: ".len()..]).expect("JSON");
    assert_eq!(error["error"]["code"], code, "{last}");
}

fn assert_is_draining(response: &Response) {
    assert_eq!(response.status, 503, "{}", response.body);
    assert_eq!(response.json()["error"]["code"], "draining", "{}", response.body);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("connection"), Some("close"));
}

/// Sends SIGTERM, waits for the end of the process, and says how long that took.
fn terminate(server: Server) -> (Option<i32>, Duration) {
    let start = SystemTime::now();
    server.signal("TERM");
    let status = server.wait();
    (status.code(), start.elapsed().unwrap_or_default())
}

/// A connection on which something was asked and answered.
fn kept_alive(server: &Server) -> BufReader<TcpStream> {
    let mut reader = BufReader::new(server.connect());
    reader.get_mut().write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("a line"), 0, "no answer came");
    }
    reader.read_exact(&mut [0; r#"{"status":"alive"}"#.len()]).expect("a body");
    reader
}

/// A file for the log of a server.
fn log(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// **SD-1**, **SD-5**
#[test]
fn what_still_runs_at_the_deadline_is_told_so() {
    let timeout = Duration::from_secs(4);
    let path = log("shutdown.log");
    let args = [&SLOW[..], &["--shutdown-timeout", "4s"]].concat();
    let server = Server::start_logged(&args, &[], &path);
    let running = stream(&server);
    let body = work(&json!({}));
    let queued: Vec<_> = (0..3).map(|_| send(&server, &body, body.len())).collect();
    server.wait_until("all are accepted", |server| {
        let of = |name: &str| server.metric(name);
        of("playhouse_requests_running") + of("playhouse_requests_waiting") >= 3.0 * 128.0
    });
    let halfway = send(&server, &body, body.len() / 2);
    let (running, told) = thread::scope(|scope| {
        let running = scope.spawn(|| rest(running));
        let told = queued.into_iter().chain([halfway]);
        let told: Vec<_> = told.map(|reader| scope.spawn(|| rest(reader))).collect();
        let (code, took) = terminate(server);
        assert_eq!(code, Some(0), "everybody was told");
        assert!(took < timeout + MARGIN, "{took:?}");
        let told: Vec<_> = told.into_iter().map(|it| it.join().expect("told")).collect();
        (running.join().expect("told"), told)
    });
    assert_ends_with("draining", &running);
    for told in told {
        assert_is_draining(&Response::parse(&told));
    }
    let log = fs::read_to_string(path).expect("the log");
    let told = ["SIGTERM", "timeout=4s", "run for another 3s", "deadline of the drain", "ended=5 "];
    for part in [&told[..], &["waiting for requests to end"]].concat() {
        assert!(log.contains(part), "no {part:?} in:\n{log}");
    }
}

/// **SD-1**: requests that wait for a replica end as well.
#[test]
fn parked_requests_end_at_the_deadline() {
    let timeout = Duration::from_secs(4);
    let folder = Folder::new();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/checkpoint");
    for file in fs::read_dir(demo).expect("the demo").flatten() {
        fs::copy(file.path(), folder.0.join(file.file_name())).expect("copied");
    }
    let model = folder.0.to_str().expect("plain");
    let own = [model, "--isolation", "process", "--shutdown-timeout", "4s"];
    let server = Server::start(&[&own[..], &SLOW].concat());
    let begun = stream(&server);
    // Whoever dies now does not come back.
    drop(folder);
    for child in children(server.pid()) {
        kill(child, "KILL");
    }
    let body = work(&json!({ "n": 1 }));
    let whole = send(&server, &body, body.len());
    let body = work(&json!({ "n": 1, "stream": true }));
    let streamed = send(&server, &body, body.len());
    server.wait_until("they are parked", |server| {
        server.metric("playhouse_requests_parked") == 128.0 + 2.0
    });
    thread::scope(|scope| {
        let begun = scope.spawn(|| rest(begun));
        let others = [whole, streamed].map(|reader| scope.spawn(|| rest(reader)));
        let (code, took) = terminate(server);
        assert_eq!(code, Some(0));
        assert!(took < timeout + MARGIN, "{took:?}");
        assert_ends_with("draining", &begun.join().expect("told"));
        for told in others {
            assert_is_draining(&Response::parse(&told.join().expect("told")));
        }
    });
}

/// **SD-2**, **SD-4**
#[test]
fn while_it_drains_everybody_is_told_and_idle_connections_delay_nothing() {
    // Far more than this test takes.
    let server = Server::start(&[&SLOW[..], &["--shutdown-timeout", "10m"]].concat());
    let running = stream(&server);
    let [mut asks_again, idle] = [(); 2].map(|()| kept_alive(&server));
    let never_asked = server.connect();
    server.signal("TERM");
    server.wait_until("the probe says so", |server| server.get("/readyz").status == 503);
    assert_eq!(server.get("/livez").status, 200, "the listener accepts");
    let body: Value = serde_json::from_str(&work(&json!({}))).expect("JSON");
    assert_is_draining(&server.post("/v1/completions", &body));
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    asks_again.get_mut().write_all(head.as_bytes()).expect("the connection lives");
    assert_is_draining(&Response::parse(&rest(asks_again)));
    assert!(server.metric("playhouse_requests_running") > 0.0, "the stream runs on");
    // Its client leaves, and so nothing is left to wait for.
    drop(running);
    let start = SystemTime::now();
    assert_eq!(server.wait().code(), Some(0));
    let took = start.elapsed().unwrap_or_default();
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(rest(idle), "");
    assert_eq!(rest(BufReader::new(never_asked)), "");
}

/// **SD-3**
#[test]
fn connections_in_the_queue_of_the_kernel_are_answered() {
    let server = Server::start(&["--threads", "1"]);
    server.signal("STOP");
    let body = json!({ "prompt": "hello", "max_tokens": 1 }).to_string();
    let queued: Vec<_> = (0..40).map(|_| send(&server, &body, body.len())).collect();
    server.signal("TERM");
    server.signal("CONT");
    let mut refused = 0;
    for reader in queued {
        let response = Response::parse(&rest(reader));
        if response.status != 200 {
            assert_is_draining(&response);
            refused += 1;
        }
    }
    println!("{refused} of 40 came after the signal");
    assert_eq!(server.wait().code(), Some(0));
}

/// **SD-4**
#[test]
fn ranks_that_hang_delay_nothing() {
    let timeout = Duration::from_secs(6);
    let own = ["-tp", "2", "--step-deadline", "0", "--shutdown-timeout", "6s"];
    let server = Server::start(&[&own[..], &SLOW].concat());
    let running = stream(&server);
    let ranks = children(server.pid());
    ranks.iter().for_each(|&rank| kill(rank, "STOP"));
    let told = thread::spawn(|| rest(running));
    let (code, took) = terminate(server);
    assert_eq!(code, Some(0));
    assert!(took < timeout + MARGIN, "{took:?}");
    assert_ends_with("draining", &told.join().expect("told"));
    let start = SystemTime::now();
    while ranks.iter().any(|&rank| lives(rank)) {
        let waited = start.elapsed().unwrap_or_default();
        assert!(waited < MARGIN, "ranks live {waited:?} after their head");
        thread::yield_now();
    }
}

/// A server that does nothing does not take its time.
#[test]
fn a_server_without_work_ends_at_once() {
    let server = Server::start(&["--shutdown-timeout", "10m"]);
    let (code, took) = terminate(server);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(60), "{took:?}");
}
