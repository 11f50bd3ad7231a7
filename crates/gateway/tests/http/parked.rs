//! **G1** and **G5** as a client sees them: the front door of real actors, whose replica ends and
//! restarts.

use std::io::{BufReader, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, Ledger, Policy, StepDeadline,
    WeightsProgress,
};
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, TokenId};
use serde_json::json;
use tokio::runtime::Runtime;

use super::support::*;
use scripted::{blueprints, engines, layout};
use start_gate::StartGate;

#[path = "../../../cluster/tests/cluster/engines/scripted.rs"]
#[expect(dead_code, reason = "every test file uses a part of it")]
mod scripted;
#[path = "../../../cluster/tests/cluster/engines/start_gate.rs"]
mod start_gate;

const CHAT: &str = "/v1/chat/completions";

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

const LIMITS: Limits = Limits {
    max_num_seqs: 4,
    max_num_batched_tokens: 256,
    prefill_time: Duration::MAX,
    max_model_len: CONTEXT,
    kv_blocks: 64,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// A gateway over one replica that serves while its gate is open.
struct TestGateway {
    server: Server,
    gate: StartGate,
    /// The first step that kills the replica.
    kill: Arc<AtomicU64>,
    /// Steps wait while it is held.
    pause: Arc<Mutex<()>>,
    _runtime: Runtime,
}

// === impl TestGateway ===

impl TestGateway {
    fn start(no_capacity_timeout: Duration, ping_interval: Duration) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (kill, pause) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(Mutex::new(())));
        let (killed, paused) = (Arc::clone(&kill), Arc::clone(&pause));
        let gate = StartGate::new(&[0]);
        let starter = engines(
            letter,
            Arc::new(move |plan| {
                drop(paused.lock());
                if plan.step.0 < killed.load(Ordering::SeqCst) {
                    return Ok(());
                }
                killed.store(u64::MAX, Ordering::SeqCst);
                Err("killed by the test".to_owned())
            }),
        );
        let config = DeploymentConfig {
            desired: Desired { replicas: 1, layout: layout(1, 1) },
            blueprints: blueprints(gate.before(starter), LIMITS),
            limits: LIMITS,
            weights: WeightsProgress::default(),
            ledger: Arc::new(Ledger::in_memory()),
            control: None,
            devices: 1,
            // A test holds steps; no engine hangs here.
            step_deadline: StepDeadline::Never,
            policy: Policy::default(),
            admission: AdmissionLimits {
                requests: Capacity::Fixed(8),
                prompt_tokens: 1024,
                no_capacity_timeout,
            },
            vocab: VOCAB,
            shared_prompt_max: usize::MAX,
            metrics: Arc::new(Metrics::new(MODEL)),
        };
        let cluster = runtime.block_on(Cluster::start(config)).expect("the actors start");
        let ping = |config: &mut playhouse_gateway::GatewayConfig| {
            config.limits.ping_interval = ping_interval;
        };
        let server = Server::over(cluster.front_door().clone(), ping);
        Self { server, gate, kill, pause, _runtime: runtime }
    }

    /// The next step kills the replica, which does not come back before the gate opens.
    fn kill_for_long(&self) {
        self.kill_for_long_at(0);
    }

    /// Kills the rank as [`kill_for_long`](Self::kill_for_long) does, in a step with this number or a later one.
    fn kill_for_long_at(&self, step: u64) {
        self.gate.close(0);
        self.kill.store(step, Ordering::SeqCst);
    }

    fn bring_up(&self) {
        self.gate.open(0);
        until("the replica serves", || self.server.door.is_ready());
    }
}

fn letter(_: usize) -> TokenId {
    66
}

#[test]
fn g1_a_parked_request_is_answered_when_a_replica_serves() {
    let gateway = TestGateway::start(LONG, LONG);
    let server = &gateway.server;
    assert_eq!(server.get("/readyz").status, 503);
    let body = with(hello(), json!({"max_tokens": 3}));
    let streamed = with(body.clone(), json!({"stream": true}));
    std::thread::scope(|scope| {
        let whole = scope.spawn(|| server.post(CHAT, &body).ok());
        let stream = scope.spawn(|| server.events(CHAT, &streamed));
        until("both are parked", || server.door.in_flight() == 2);
        gateway.bring_up();
        let whole = whole.join().expect("answered");
        assert_eq!(whole["usage"]["completion_tokens"], 3);
        let events = stream.join().expect("answered");
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    });
}

/// A stream, too, is refused with a status of its own: its head waits while the request is parked,
/// whatever the pings.
#[test]
fn g1_a_parked_request_is_refused_at_the_timeout() {
    let timeout = Duration::from_millis(200);
    let gateway = TestGateway::start(timeout, SHORT);
    for more in [json!({}), json!({"stream": true}), json!({"stream": true, "n": 2})] {
        let start = Instant::now();
        let reply = gateway.server.post(CHAT, &with(hello(), more));
        assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());
        let (status, _, message) = reply.error();
        assert_eq!(status, 503);
        let why = "no replica could serve it within 0.2 s: waiting for 1 rank to start";
        assert_eq!(message, why);
        assert_eq!(reply.json()["error"]["code"], "unavailable");
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(reply.header("retry-after-ms"), Some("1000"));
    }
    until("nothing is left", || gateway.server.door.in_flight() == 0);
    let metrics = gateway.server.get("/metrics").text();
    assert!(metrics.contains("finished_reason=\"error\"} 3"), "{metrics}");
}

#[test]
fn g1_a_stream_that_has_begun_ends_with_an_error_event() {
    let gateway = TestGateway::start(Duration::from_millis(200), SHORT);
    gateway.bring_up();
    let body = with(hello(), json!({"stream": true, "max_tokens": 200})).to_string();
    let mut stream = gateway.server.connect();
    let held = gateway.pause.lock();
    stream.write_all(&post(CHAT, body.as_bytes())).expect("open");
    gateway.kill_for_long();
    // The head went out with a ping: the request was running, if for a single step.
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).expect("a head");
    assert!(line.contains("200"), "{line}");
    drop(held);
    while line != "\r\n" {
        line.clear();
        std::io::BufRead::read_line(&mut reader, &mut line).expect("headers");
    }
    let mut text = String::new();
    while let Some(chunk) = read_chunk(&mut reader).expect("a proper end") {
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
    }
    let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
    let events: Vec<&str> = events.collect();
    let last = events.last().and_then(|last| last.strip_prefix("data: ")).expect("an event");
    let error: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(error["error"]["code"], "unavailable", "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    assert_eq!(gateway.server.door.in_flight(), 0);
    let metrics = gateway.server.get("/metrics").text();
    let failed = |reason: &str| {
        format!(r#"playhouse_streams_failed_total{{model_name="{MODEL}",reason="{reason}"}} "#)
    };
    assert!(metrics.contains(&(failed("unavailable") + "1\n")), "{metrics}");
    assert!(metrics.contains(&(failed("engine_failed") + "0\n")), "{metrics}");
}

/// A client sees the loss of a replica as a silence of its stream.
#[test]
fn the_silence_of_a_stream_that_resumes_is_measured() {
    let gateway = TestGateway::start(LONG, LONG);
    gateway.bring_up();
    let body = with(hello(), json!({"stream": true, "max_tokens": 100}));
    let gaps = |gateway: &TestGateway| {
        let text = gateway.server.get("/metrics").text();
        let line = text.lines().find_map(|line| {
            let rest = line.strip_prefix("playhouse_stream_gap_seconds_count{")?;
            rest.rsplit(' ').next()?.parse::<u32>().ok()
        });
        line.expect("there from the start")
    };
    std::thread::scope(|scope| {
        let held = gateway.pause.lock();
        let stream = scope.spawn(|| gateway.server.events(CHAT, &body));
        until("it runs", || gateway.server.door.replicas()[0].running == 1);
        // When some tokens have come, and long before the last.
        gateway.kill_for_long_at(5);
        drop(held);
        until("the replica is gone", || !gateway.server.door.is_ready());
        gateway.bring_up();
        let events = stream.join().expect("answered");
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    });
    assert_eq!(gaps(&gateway), 1);
}

/// **S-13** as a client sees it: a request expires while it is parked, or waits for the end of a step.
#[test]
fn g6_a_request_whose_time_is_up_before_it_begins_is_503() {
    let gateway = TestGateway::start(LONG, LONG);
    let body = with(hello(), json!({"max_tokens": 2})).to_string();
    let length = body.len();
    let ask = |more: &str| {
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{more}content-length: {length}\r\n"
        );
        gateway.server.raw(format!("{head}\r\n{body}").as_bytes())
    };
    let expired = |reply: &Reply| {
        assert_eq!((reply.error().0, &reply.json()["error"]["code"]), (503, &json!("timeout")));
        assert!(reply.header("retry-after").is_some() && reply.header("retry-after-ms").is_some());
    };
    expired(&ask("x-request-timeout-ms: 50\r\n"));
    gateway.bring_up();
    let held = gateway.pause.lock();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| ask("").ok());
        until("it runs", || gateway.server.door.replicas()[0].running == 1);
        let patient = scope.spawn(|| ask("x-request-timeout-ms: 60000\r\n").ok());
        until("it waits", || gateway.server.door.in_flight() == 2);
        let late = scope.spawn(|| ask("x-request-timeout-ms: 50\r\n"));
        // A check that comes too late finds the request gone.
        until("both wait", || gateway.server.door.in_flight() == 3 || late.is_finished());
        let start = Instant::now();
        until("its time is up", || start.elapsed() > Duration::from_millis(60));
        drop(held);
        expired(&late.join().expect("answered"));
        patient.join().expect("answered");
        running.join().expect("answered");
    });
    let metrics = gateway.server.get("/metrics").text();
    assert!(metrics.contains(r#"reason="expired",key=""} 2"#), "{metrics}");
}

#[test]
fn g5_a_client_that_leaves_while_parked_frees_everything() {
    let gateway = TestGateway::start(LONG, LONG);
    for more in [json!({}), json!({"stream": true}), json!({"n": 3, "stream": true})] {
        let body = with(hello(), more).to_string();
        let mut stream = gateway.server.connect();
        stream.write_all(&post(CHAT, body.as_bytes())).expect("open");
        until("it is parked", || gateway.server.door.in_flight() > 0);
        stream.shutdown(Shutdown::Both).expect("open");
        drop(stream);
        until("it has left", || gateway.server.door.in_flight() == 0);
    }
}
