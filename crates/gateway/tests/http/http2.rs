//! The API over HTTP/2, on a cleartext listener: many requests on one connection, each of which ends as
//! a connection of HTTP/1.1 would.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use playhouse_cluster::FrontDoor;
use playhouse_gateway::{Drained, GatewayConfig};
use playhouse_types::GenerateRequest;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::shutdown::{held, patient, stop};
use super::support::*;

const CHAT: &str = "/v1/chat/completions";

type Sender = SendRequest<Full<Bytes>>;

async fn connect(address: std::net::SocketAddr) -> (Sender, JoinHandle<hyper::Result<()>>) {
    connect_with_window(address, None).await
}

/// Connects a client that has room for `window` bytes of each answer that it does not read.
async fn connect_with_window(
    address: std::net::SocketAddr,
    window: Option<u32>,
) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let connected =
        builder.initial_stream_window_size(window).handshake(TokioIo::new(stream)).await;
    let (sender, connection) = connected.expect("it speaks HTTP/2");
    (sender, tokio::spawn(connection))
}

/// Sends a request and returns its answer, whose body may be incomplete.
async fn send(
    sender: &Sender,
    path: &str,
    body: impl Into<Bytes>,
) -> hyper::Result<Response<Incoming>> {
    let target = format!("http://localhost{path}");
    let body: Bytes = body.into();
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request::builder().method(method).uri(target).body(Full::new(body));
    let mut sender = sender.clone();
    sender.ready().await?;
    sender.send_request(request.expect("a request")).await
}

async fn whole(response: Response<Incoming>) -> hyper::Result<Reply> {
    let (head, body) = response.into_parts();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), value.to_str().expect("text").to_owned())
    };
    let headers = head.headers.iter().map(header).collect();
    let body = body.collect().await?.to_bytes().to_vec();
    Ok(Reply { status: head.status.as_u16(), headers, body })
}

async fn get(sender: &Sender, path: &str) -> hyper::Result<Reply> {
    whole(send(sender, path, "").await?).await
}

async fn chat(sender: &Sender, more: Value) -> hyper::Result<Reply> {
    whole(send(sender, CHAT, with(hello(), more).to_string()).await?).await
}

/// Sends a request and reads its answer in a task.
fn ask(sender: &Sender, more: Value) -> JoinHandle<hyper::Result<Reply>> {
    let sender = sender.clone();
    tokio::spawn(async move { chat(&sender, more).await })
}

async fn soon<T>(act: impl Future<Output = T>) -> T {
    timeout(PATIENCE, act).await.expect("in time")
}

/// An engine that emits one token at once, and nothing more until its client leaves.
fn begun(request: GenerateRequest, emissions: Emissions) {
    let first = speech(&request, &tokens_of("a")).swap_remove(0);
    tokio::spawn(async move {
        drop(emissions.send(first));
        emissions.closed().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_whole_or_as_events() {
    let server = Server::start(murmuring("Hello there"));
    let (sender, _driver) = connect(server.address).await;
    let answer = chat(&sender, json!({})).await.expect("answered").ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello there");
    let reply = chat(&sender, json!({"stream": true})).await.expect("answered");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let events = events_of(&reply.text());
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let text: String = events
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, "Hello there");
}

/// The events of a stream do not wait for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_as_they_happen() {
    let server = Server::start(begun);
    let (sender, _driver) = connect(server.address).await;
    let body = with(hello(), json!({"stream": true})).to_string();
    let mut answer = soon(send(&sender, CHAT, body)).await.expect("it begins").into_body();
    let first = soon(answer.frame()).await.expect("an event").expect("open");
    assert!(first.into_data().expect("data").starts_with(b"data: {"));
    assert_eq!(server.door.in_flight(), 1);
}

/// GW-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_one_shape_and_leave_the_connection_alone() {
    let server = Server::with(|config| config.limits.body_bytes = 1000, mute);
    let (sender, _driver) = connect(server.address).await;
    for (path, length, status) in [
        ("/v1/nothing", 0, 404),
        ("/livez", 1, 405),
        (CHAT, 1, 400),
        (CHAT, 1001, 413),
        (CHAT, 1 << 20, 413),
    ] {
        let reply = whole(send(&sender, path, vec![b'x'; length]).await.expect("answered")).await;
        assert_eq!(reply.expect("whole").error().0, status, "{path} {length}");
    }
    assert_eq!(get(&sender, "/livez").await.expect("answered").status, 200);
}

/// GW-1: hyper's client sends a head as large as this, and learns that it was too large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_large_gets_an_error_in_the_one_shape() {
    let server = Server::start(mute);
    let (mut sender, _driver) = connect(server.address).await;
    let head = Request::get("http://playhouse/livez").header("cookie", "a".repeat(100 << 10));
    sender.ready().await.expect("open");
    let answer = sender.send_request(head.body(Full::default()).expect("a request")).await;
    let reply = whole(answer.expect("answered")).await.expect("whole");
    assert_eq!(
        (reply.error().0, &reply.json()["error"]["code"]),
        (431, &json!("headers_too_large"))
    );
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.text().contains("at most 65536 bytes"), "{}", reply.text());
    assert_eq!(get(&sender, "/livez").await.expect("answered").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_a_connection_and_the_bounds_of_the_house() {
    let server = Server::start(mute);
    let (sender, _driver) = connect(server.address).await;
    let running: Vec<_> = (0..8).map(|_| ask(&sender, json!({}))).collect();
    until("all run", || server.door.in_flight() == 8);
    let probes: Vec<_> = (0..100)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move { get(&sender, "/livez").await })
        })
        .collect();
    for probe in probes {
        assert_eq!(probe.await.expect("no panic").expect("answered").status, 200);
    }
    let refused = chat(&sender, json!({})).await.expect("answered");
    assert_eq!((refused.error().0, &refused.json()["error"]["code"]), (503, &json!("overloaded")));
    for running in &running {
        running.abort();
    }
    until("all are cancelled", || server.door.in_flight() == 0);
}

/// GW-3: a stream that is reset is a client that leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_cancels_its_generations_only() {
    let server = Server::start(begun);
    let (sender, _driver) = connect(server.address).await;
    let stays = ask(&sender, json!({"stream": true}));
    until("it runs", || server.door.in_flight() == 1);
    for more in
        [json!({}), json!({"stream": true}), json!({"n": 3}), json!({"n": 3, "stream": true})]
    {
        let running = 1 + more["n"].as_u64().unwrap_or(1) as u32;
        let leaves = ask(&sender, more);
        until("the generations run", || server.door.in_flight() == running);
        leaves.abort();
        until("the generations are cancelled", || server.door.in_flight() == 1);
    }
    assert!(!stays.is_finished());
    stays.abort();
    until("all are cancelled", || server.door.in_flight() == 0);
    let metrics = get(&sender, "/metrics").await.expect("answered").text();
    assert!(metrics.contains("finished_reason=\"abort\"} 9"), "{metrics}");
}

/// GW-3: a client that has room for one byte of its answers, and does not read them, is a client that leaves,
/// after the time that it has to take a piece of an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_read_is_reset_and_its_generation_cancelled() {
    let configure = |config: &mut GatewayConfig| {
        config.limits.write_timeout = Duration::from_millis(300);
        // Nothing more is to be sent.
        config.limits.ping_interval = 10 * PATIENCE;
    };
    let server = Server::with(configure, begun);
    let (sender, _driver) = connect_with_window(server.address, Some(1)).await;
    let body = with(hello(), json!({"stream": true})).to_string();
    let unread = send(&sender, CHAT, body).await.expect("it begins");
    until("the generation is cancelled", || server.door.in_flight() == 0);
    assert!(whole(unread).await.is_err(), "it was reset");
    let (reads, _driver) = connect(server.address).await;
    let metrics = get(&reads, "/metrics").await.expect("answered").text();
    assert!(metrics.contains("finished_reason=\"abort\"} 1"), "{metrics}");
}

/// **END-1**, **END-2**
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_finishes_while_the_connection_takes_no_more() {
    let (release, script) = held();
    let server = Server::with(patient(10 * PATIENCE, PATIENCE), script);
    let (door, address) = (server.door.clone(), server.address);
    let (sender, driver) = connect(address).await;
    let running = [ask(&sender, json!({})), ask(&sender, json!({"stream": true}))];
    until("both run", || door.in_flight() == 2);
    let stopping = stop(server);
    until("the server drains", || door.is_draining());
    let left = async { while get(&sender, "/livez").await.is_ok() {} };
    soon(left).await;
    let (fresh, fresh_driver) = connect(address).await;
    let refused = chat(&fresh, json!({})).await.expect("the listener accepts, and refuses");
    assert_eq!((refused.error().0, &refused.json()["error"]["code"]), (503, &json!("draining")));
    soon(fresh_driver).await.expect("no panic").expect("told to leave");
    release.send(true).expect("the engine waits");
    let [whole, streamed] = running;
    let whole = soon(whole).await.expect("no panic").expect("answered").ok();
    assert_eq!(whole["choices"][0]["message"]["content"], "late");
    let streamed = soon(streamed).await.expect("no panic").expect("answered").text();
    assert!(streamed.ends_with("data: [DONE]\n\n"), "{streamed}");
    soon(driver).await.expect("no panic").expect("a proper end");
    let drained = tokio::task::spawn_blocking(|| stopping.join().expect("no panic"));
    assert_eq!(drained.await.expect("no panic"), Drained { ended: 0, cut_off: 0 });
}

/// **END-3**
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_run_at_the_deadline_are_told_so() {
    let server = Server::with(patient(Duration::from_millis(300), PATIENCE), begun);
    let door = server.door.clone();
    let (sender, driver) = connect(server.address).await;
    let (streamed, answered) = (ask(&sender, json!({"stream": true})), ask(&sender, json!({})));
    until("both run", || door.in_flight() == 2);
    let stopping = stop(server);
    let text = soon(streamed).await.expect("no panic").expect("a proper end").text();
    assert!(text.trim_end().ends_with(r#""code":"draining"}}"#), "{text}");
    let refused = soon(answered).await.expect("no panic").expect("answered");
    assert_eq!((refused.error().0, &refused.json()["error"]["code"]), (503, &json!("draining")));
    soon(driver).await.expect("no panic").expect("a proper end");
    let drained = tokio::task::spawn_blocking(|| stopping.join().expect("no panic"));
    assert_eq!(drained.await.expect("no panic"), Drained { ended: 2, cut_off: 0 });
}

/// **END-4**: larger than what any client has room for unless it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_is_cut_off_and_counted() {
    let short = Duration::from_millis(500);
    let tokens = vec![tokens_of("a")[0]; 10_000];
    let script = move |request: GenerateRequest, emissions: Emissions| {
        for emission in speech(&request, &tokens) {
            drop(emissions.send(emission));
        }
    };
    let server =
        Server::over(FrontDoor::scripted(1 << 16, VOCAB, 8, script), patient(short, short));
    let (sender, _driver) = connect(server.address).await;
    let body = with(hello(), json!({"logprobs": true, "top_logprobs": 20})).to_string();
    let unread = send(&sender, CHAT, body).await.expect("it begins");
    let drained = tokio::task::spawn_blocking(|| server.stop());
    assert_eq!(drained.await.expect("no panic"), Drained { ended: 0, cut_off: 1 });
    assert!(whole(unread).await.is_err(), "it has no end");
}
