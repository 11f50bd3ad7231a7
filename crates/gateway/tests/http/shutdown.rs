//! **END-1** to **END-4**: the shutdown of a server as its clients see it.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use playhouse_cluster::FrontDoor;
use playhouse_gateway::{Drained, GatewayConfig};
use playhouse_types::GenerateRequest;
use serde_json::json;
use tokio::sync::watch;

use super::support::*;

const CHAT: &str = "/v1/chat/completions";

/// A server whose clients may take their time to read the end.
pub(crate) fn patient(drain: Duration, farewell: Duration) -> impl FnOnce(&mut GatewayConfig) {
    move |config| {
        config.limits.drain_timeout = drain;
        config.limits.farewell_timeout = farewell;
    }
}

/// Sends a request, and leaves its answer for later.
fn ask(server: &Server, more: serde_json::Value) -> BufReader<TcpStream> {
    let mut stream = server.connect();
    let body = with(hello(), more).to_string();
    stream.write_all(&post(CHAT, body.as_bytes())).expect("open");
    BufReader::new(stream)
}

/// Stops a server, elsewhere.
pub(crate) fn stop(server: Server) -> JoinHandle<Drained> {
    thread::spawn(move || server.stop())
}

fn assert_is_draining(reply: &Reply) {
    let (status, _, message) = reply.error();
    assert_eq!((status, &*message), (503, "the server is shutting down"));
    assert_eq!(reply.json()["error"]["code"], "draining");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("connection"), Some("close"));
}

/// An engine that says a word when it is released, and nothing before.
pub(crate) fn held() -> (watch::Sender<bool>, impl Fn(GenerateRequest, Emissions) + Send + Sync) {
    let (release, released) = watch::channel(false);
    let script = move |request: GenerateRequest, emissions: Emissions| {
        let mut released = released.clone();
        let speech = speech(&request, &tokens_of("late"));
        tokio::spawn(async move {
            drop(released.wait_for(|free| *free).await);
            for emission in speech {
                drop(emissions.send(emission));
            }
        });
    };
    (release, script)
}

/// **END-1**, **END-2**
#[test]
fn accepted_requests_finish_while_the_listener_accepts_and_refuses() {
    let (release, script) = held();
    let server = Server::with(patient(10 * PATIENCE, Duration::from_millis(500)), script);
    let (door, address) = (server.door.clone(), server.address);
    let mut idle = server.connect();
    let running = ask(&server, json!({}));
    until("the request runs", || door.in_flight() == 1);
    let mut later = server.connect();
    let stopping = stop(server);
    until("the server drains", || door.is_draining());
    let mut fresh = TcpStream::connect(address).expect("the listener accepts");
    fresh.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("open");
    let reply = Reply::read(&mut BufReader::new(fresh)).expect("answered");
    assert_eq!((reply.error().0, reply.header("connection")), (503, Some("close")));
    // The body is read to its end, so that its sender sees the answer.
    let body = with(hello(), json!({"pad": "x".repeat(1 << 20)})).to_string();
    later.write_all(&post(CHAT, body.as_bytes())).expect("the connection lives");
    assert_is_draining(&Reply::read(&mut BufReader::new(later)).expect("answered"));
    release.send(true).expect("the engine waits");
    let reply = Reply::read(&mut BufReader::new(running.into_inner())).expect("answered");
    assert_eq!(reply.ok()["choices"][0]["message"]["content"], "late");
    assert_eq!(idle.read(&mut [0]).expect("closed"), 0);
    assert_eq!(stopping.join().expect("no panic"), Drained { ended: 0, cut_off: 0 });
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
}

/// **END-3**
#[test]
fn what_runs_at_the_deadline_is_told_so() {
    let server =
        Server::with(patient(Duration::from_millis(300), PATIENCE), |request, emissions| {
            let first = speech(&request, &tokens_of("a")).swap_remove(0);
            tokio::spawn(async move {
                drop(emissions.send(first));
                emissions.closed().await;
            });
        });
    let door = server.door.clone();
    let mut streamed = ask(&server, json!({"stream": true, "n": 2}));
    let whole = ask(&server, json!({}));
    let mut body = server.connect();
    let slow = post(CHAT, hello().to_string().as_bytes());
    body.write_all(&slow[..slow.len() - 1]).expect("open");
    until("all run", || door.in_flight() == 3);
    let stopping = stop(server);
    let text = Reply::read(&mut streamed).expect("a proper end").text();
    let events = events_of(&text);
    let error: serde_json::Value =
        serde_json::from_str(events.last().expect("an event")).expect("JSON");
    assert_eq!(error["error"]["code"], "draining", "{text}");
    assert_eq!(error["error"]["message"], "the server is shutting down");
    assert!(!text.contains("[DONE]"), "{text}");
    for mut reader in [whole, BufReader::new(body)] {
        assert_is_draining(&Reply::read(&mut reader).expect("answered"));
    }
    assert_eq!(stopping.join().expect("no panic"), Drained { ended: 3, cut_off: 0 });
    assert_eq!(door.in_flight(), 0);
}

/// **END-3**: an answer that is sent without end does not outlast the deadline.
#[test]
fn a_stream_that_always_has_more_to_say_is_told_so() {
    let server =
        Server::with(patient(Duration::from_millis(300), PATIENCE), |request, emissions| {
            let forever = speech(&request, &tokens_of("a")).swap_remove(0);
            tokio::spawn(async move {
                while emissions.send(forever.clone()).is_ok() {
                    tokio::task::yield_now().await;
                }
            });
        });
    let mut streamed = ask(&server, json!({"stream": true}));
    let door = server.door.clone();
    until("it runs", || door.in_flight() == 1);
    let stopping = stop(server);
    let text = Reply::read(&mut streamed).expect("a proper end").text();
    assert!(text.trim_end().ends_with(r#""code":"draining"}}"#), "{}", &text[text.len() - 200..]);
    assert_eq!(stopping.join().expect("no panic"), Drained { ended: 1, cut_off: 0 });
}

/// **END-2**: with one connection allowed, all others wait in the kernel's queue.
#[test]
fn connections_in_the_queue_are_answered_before_the_listener_closes() {
    let (release, script) = held();
    let one = NonZeroUsize::new(1).expect("not zero");
    let configure = move |config: &mut GatewayConfig| {
        patient(10 * PATIENCE, PATIENCE)(config);
        config.limits.connections = one;
    };
    let server = Server::with(configure, script);
    let door = server.door.clone();
    let running = ask(&server, json!({}));
    until("the request runs", || door.in_flight() == 1);
    let queued: Vec<_> = (0..32).map(|_| ask(&server, json!({}))).collect();
    let stopping = stop(server);
    until("the server drains", || door.is_draining());
    release.send(true).expect("the engine waits");
    assert_eq!(
        Reply::read(&mut BufReader::new(running.into_inner())).expect("answered").status,
        200
    );
    for mut reader in queued {
        assert_is_draining(&Reply::read(&mut reader).expect("answered, not reset"));
        assert_eq!(reader.read(&mut [0]).expect("closed"), 0);
    }
    assert_eq!(stopping.join().expect("no panic"), Drained { ended: 0, cut_off: 0 });
}

/// **END-4**: an answer larger than all buffers of the kernel.
#[test]
fn an_answer_that_nobody_reads_is_cut_off_and_counted() {
    let configure = |config: &mut GatewayConfig| {
        config.limits.drain_timeout = Duration::from_millis(500);
        config.limits.farewell_timeout = Duration::from_millis(500);
    };
    // Forty megabytes.
    let tokens = vec![tokens_of("a")[0]; 40_000];
    let script = move |request: GenerateRequest, emissions: Emissions| {
        for emission in speech(&request, &tokens) {
            drop(emissions.send(emission));
        }
    };
    let server = Server::over(FrontDoor::scripted(1 << 16, VOCAB, 8, script), configure);
    let deaf = ask(&server, json!({"logprobs": true, "top_logprobs": 20}));
    until("the answer is made", || {
        server.get("/metrics").text().contains("finished_reason=\"stop\"} 1")
    });
    let idle = server.connect();
    assert_eq!(server.stop(), Drained { ended: 0, cut_off: 1 });
    drop((deaf, idle));
}
