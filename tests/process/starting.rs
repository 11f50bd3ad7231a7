//! A head that cannot serve yet: what it answers while its ranks wait for devices.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::cluster::{Head, Process, wait_until};
use crate::server::{PATIENCE, Response};

fn get(api: &str, path: &str) -> Response {
    let stream = TcpStream::connect(api).expect("the head listens");
    Response::to(stream, "GET", path, "", "")
}

/// Asks for a completion of one token, with these header lines.
fn complete(api: &str, headers: &str) -> Response {
    let stream = TcpStream::connect(api).expect("the head listens");
    let body = json!({ "prompt": "Once", "max_tokens": 1 }).to_string();
    Response::to(stream, "POST", "/v1/completions", headers, &body)
}

/// Begins such a request in a thread of its own.
fn begin(api: &str) -> thread::JoinHandle<Response> {
    let api = api.to_owned();
    thread::spawn(move || complete(&api, ""))
}

/// The status and the code of an error.
fn refusal(response: &Response) -> (u16, String) {
    let code = response.json()["error"]["code"].as_str().map(str::to_owned);
    (response.status, code.unwrap_or_default())
}

/// Waits until `/readyz` says of a head that it waits for `what`.
fn waits_for(api: &str, what: &str) {
    wait_until(what, || {
        let response = get(api, "/readyz");
        assert_eq!(response.status, 503, "{}", response.body);
        response.json()["error"]["message"] == format!("not ready: {what}")
    });
}

/// Waits until this number of requests waits for a replica.
fn parked(api: &str, count: usize) {
    wait_until("requests wait", || {
        let metrics = get(api, "/metrics").body;
        let mut lines = metrics.lines();
        let parked = lines.find(|line| line.starts_with("playhouse_requests_parked{"));
        parked.is_some_and(|line| line.ends_with(&format!(" {count}")))
    });
}

#[test]
fn a_head_that_waits_for_nodes_answers_and_lets_requests_wait_within_their_bounds() {
    let bounds = ["--no-capacity-timeout", "10m", "--max-queued-requests", "2"];
    let mut head = Head::start(None, "127.0.0.1", &[&["-tp", "2"][..], &bounds].concat());
    let api = head.early_api();
    waits_for(&api, "waiting for 2 devices");
    assert_eq!(get(&api, "/livez").status, 200);
    assert_eq!(get(&api, "/v1/models").status, 200);
    let verbose = get(&api, "/readyz?verbose").json();
    assert_eq!(verbose["missing"], "waiting for 2 devices");
    assert!(verbose["reason"].as_str().is_some_and(|why| why.contains("replica-0")), "{verbose}");

    let begun = SystemTime::now();
    let expired = complete(&api, "x-request-timeout-ms: 300\r\n");
    assert_eq!(refusal(&expired), (503, "timeout".to_owned()));
    assert!(begun.elapsed().unwrap_or_default() >= Duration::from_millis(300));

    let waiting = [begin(&api), begin(&api)];
    parked(&api, 2);
    assert_eq!(refusal(&complete(&api, "")), (503, "overloaded".to_owned()), "the queue is full");

    let start = |name| {
        let words = head.node_words(name, Some(&head.token()), "cpu:1");
        Process::start(None, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let first = start("first");
    waits_for(&api, "waiting for 1 device");
    let second = start("second");
    for reply in waiting {
        let reply = reply.join().expect("no panic");
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    wait_until("it is ready", || get(&api, "/readyz").status == 200);
    drop((first, second));
}

#[test]
fn a_request_that_no_start_serves_in_time_is_told_what_was_waited_for() {
    let mut head = Head::start(None, "127.0.0.1", &["--no-capacity-timeout", "300ms"]);
    let api = head.early_api();
    waits_for(&api, "waiting for 1 device");
    let reply = complete(&api, "");
    assert_eq!(reply.status, 503, "{}", reply.body);
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("within 0.3 s: waiting for 1 device"), "{message}");
}

#[test]
fn a_head_that_is_stopped_while_it_waits_tells_the_requests_that_wait() {
    let mut head = Head::start(None, "127.0.0.1", &[]);
    let api = head.early_api();
    let asked = begin(&api);
    parked(&api, 1);
    let begun = SystemTime::now();
    head.process.signal("TERM");
    let reply = asked.join().expect("no panic");
    assert_eq!(refusal(&reply), (503, "draining".to_owned()));
    let (ended, said) = head.process.end();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("stopped by SIGTERM before the model was loaded"), "{said}");
    assert!(begun.elapsed().unwrap_or_default() < PATIENCE / 8, "it waits for nothing");
}
