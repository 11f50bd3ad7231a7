//! Changes of the cluster, and following them, over real sockets.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use playhouse_admin::{
    AuditEntry, AuditLog, CONNECTION_MAX, CONNECTIONS_MAX, KEY_BYTES_MAX, STREAMS_MAX, view,
};
use playhouse_cluster::{Change, Drained, OperationId, Phase, Refused};
use playhouse_types::{ParallelSpec, ReplicaId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::script::{self, STEPS, Script, ask, error, exchange, raw, request};

const DEPLOYMENT: &str = "/admin/v1/deployment";

/// Returns the change that the API makes of a request.
async fn change_of(line: &str, body: &str) -> Change {
    let script = Script::idle();
    let address = script.serve(None).await;
    let (status, answer) = ask(address, line, body).await;
    assert_eq!(status, 202, "{line} {body}: {answer}");
    script.ledger.operations().pop().expect("it began").change
}

fn layout(tensor: u32, pipeline: u32, partition: Option<&[u32]>) -> Option<ParallelSpec> {
    Some(ParallelSpec {
        tensor,
        pipeline,
        pipeline_partition: partition.map(<[_]>::to_vec),
        ..ParallelSpec::default()
    })
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let was = [10, 14];
    for (query, body, replicas, layout, force) in [
        ("", json!({ "data_parallel": 4 }), Some(4), None, false),
        ("", json!({ "data_parallel": 0, "force": true }), Some(0), None, true),
        ("?force=true", json!({ "data_parallel": 1 }), Some(1), None, true),
        ("", json!({ "tensor_parallel": 4 }), None, layout(4, 2, Some(&was)), false),
        ("", json!({ "pipeline_parallel": 2 }), None, layout(2, 2, None), false),
        ("", json!({ "pipeline_parallel": 3 }), None, layout(2, 3, None), false),
        ("", json!({ "pipeline_partition": [1, 23] }), None, layout(2, 2, Some(&[1, 23])), false),
        (
            "",
            json!({ "data_parallel": 2, "tensor_parallel": 1, "pipeline_parallel": 1 }),
            Some(2),
            layout(1, 1, None),
            false,
        ),
    ] {
        let change = change_of(&format!("PATCH {DEPLOYMENT}{query}"), &body.to_string()).await;
        assert_eq!(change, Change::Deployment { replicas, layout, force }, "{body}");
    }
}

#[tokio::test]
async fn a_path_is_a_change() {
    let deadline = std::time::Duration::from_secs;
    let (replica, node) = (ReplicaId(7), || "rack 1/é".to_owned());
    let path = "/admin/v1/nodes/rack%201%2F%C3%A9";
    for (line, expected) in [
        (
            "POST /admin/v1/replicas/7/drain".to_owned(),
            Change::DrainReplica { replica, deadline: deadline(30), force: false },
        ),
        (
            "POST /admin/v1/replicas/7/drain?deadline_seconds=0&force=true".to_owned(),
            Change::DrainReplica { replica, deadline: deadline(0), force: true },
        ),
        ("POST /admin/v1/replicas/7/restart".to_owned(), Change::RestartReplica { replica }),
        (
            "DELETE /admin/v1/replicas/7?force=false&deadline_seconds=86400".to_owned(),
            Change::RemoveReplica { replica, deadline: deadline(86_400), force: false },
        ),
        (
            format!("POST {path}/drain?deadline_seconds=5"),
            Change::DrainNode { node: node(), deadline: deadline(5), force: false },
        ),
        (format!("DELETE {path}/drain"), Change::UndrainNode { node: node() }),
        (format!("DELETE {path}"), Change::RemoveNode { node: node() }),
    ] {
        assert_eq!(change_of(&line, "").await, expected, "{line}");
    }
}

#[tokio::test]
async fn an_accepted_change_says_where_it_is_followed() {
    let script = Script::idle();
    let address = script.serve(None).await;
    let asked =
        request(&format!("PATCH {DEPLOYMENT}"), "idempotency-key: k\r\n", r#"{"data_parallel":4}"#);
    let first = exchange(address, asked.as_bytes()).await;
    assert!(first.starts_with("HTTP/1.1 202"), "{first}");
    assert!(first.contains("location: /admin/v1/operations/1\r\n"), "{first}");
    let (status, body) = raw(address, asked.as_bytes()).await;
    let again: view::Operation = serde_json::from_str(&body).expect("an operation");
    assert_eq!((status, again.id, again.key.as_deref()), (202, 1, Some("k")));
    assert_eq!(script.ledger.operations().len(), 1, "asking twice changes nothing twice");
    let (_, deployment) = ask(address, &format!("GET {DEPLOYMENT}"), "").await;
    let read: view::Deployment = serde_json::from_value(deployment.clone()).expect("a deployment");
    assert_eq!(read.operation.expect("it is under way").id, 1);
    assert_eq!(deployment["desired"]["pipeline_partition"], json!([10, 14]));
    assert_eq!((read.actual.len(), read.actual[0].tensor_parallel), (7, 4));
    let (_, cluster) = ask(address, "GET /admin/v1/cluster", "").await;
    assert_eq!(cluster["operation"]["id"], 1);
}

#[tokio::test]
async fn what_was_drained_is_told() {
    let script = Script::idle();
    let address = script.serve(None).await;
    let nodes = ["head".to_owned()].into();
    let removed = ["rack-1".to_owned()].into();
    let rest = Drained { nodes, replicas: [ReplicaId(4)].into(), removed };
    script.ledger.set_drained(rest).expect("there is no journal");
    let (_, deployment) = ask(address, &format!("GET {DEPLOYMENT}"), "").await;
    let told = json!({ "nodes": ["head"], "replicas": [4], "removed": ["rack-1"] });
    assert_eq!(deployment["drained"], told);
}

#[tokio::test]
async fn a_dry_run_begins_nothing() {
    let script = Script::idle();
    let address = script.serve(None).await;
    for line in [format!("PATCH {DEPLOYMENT}"), "DELETE /admin/v1/replicas/0".to_owned()] {
        let body = if line.starts_with("PATCH") { r#"{"data_parallel":1}"# } else { "" };
        let (status, plan) = ask(address, &format!("{line}?dry_run=true"), body).await;
        assert_eq!((status, &plan["steps"]), (200, &json!(STEPS)));
        assert_eq!(plan["nothing_to_do"], json!(null));
    }
    let present = format!("PATCH {DEPLOYMENT}?dry_run=true");
    let (status, plan) = ask(address, &present, r#"{"data_parallel":3}"#).await;
    let nothing = "the cluster is as asked for already";
    assert_eq!((status, plan), (200, json!({ "steps": [], "nothing_to_do": nothing })));
    assert!(script.ledger.operations().is_empty());
}

#[tokio::test]
async fn wrong_requests_are_400_and_name_the_field() {
    let script = Script { refusal: |_| panic!("nothing reaches the cluster"), ..Script::idle() };
    let address = script.serve(None).await;
    let patch = format!("PATCH {DEPLOYMENT}");
    for (line, body, field, says) in [
        (&*patch, "{}", None, "nothing to change"),
        (&patch, r#"{"force":true}"#, None, "nothing to change"),
        (&patch, r#"{"data_parallel":-1}"#, Some("data_parallel"), "from 0 to 65536, not -1"),
        (&patch, r#"{"data_parallel":65537}"#, Some("data_parallel"), "not 65537"),
        (&patch, r#"{"tensor_parallel":0}"#, Some("tensor_parallel"), "from 1 to"),
        (&patch, r#"{"pipeline_parallel":0}"#, Some("pipeline_parallel"), "not 0"),
        (&patch, r#"{"pipeline_partition":[]}"#, Some("pipeline_partition"), "0 numbers for 2"),
        (&patch, r#"{"pipeline_partition":[1,0]}"#, Some("pipeline_partition"), "not 0"),
        (
            &patch,
            r#"{"pipeline_parallel":3,"pipeline_partition":[1,1]}"#,
            Some("pipeline_partition"),
            "2 numbers for 3 stages",
        ),
        (&patch, r#"{"replicas":1}"#, None, "unknown field `replicas`"),
        (&patch, "", None, "EOF"),
        (
            "PATCH /admin/v1/deployment?deadline_seconds=3",
            r#"{"data_parallel":1}"#,
            Some("deadline_seconds"),
            "means nothing here",
        ),
        (
            "PATCH /admin/v1/deployment?dry_run=1",
            r#"{"data_parallel":1}"#,
            Some("dry_run"),
            "true or false, not \"1\"",
        ),
        ("POST /admin/v1/replicas/0/restart?force=true", "", Some("force"), "means nothing here"),
        (
            "POST /admin/v1/replicas/0/drain?deadline_seconds=86401",
            "",
            Some("deadline_seconds"),
            "86400",
        ),
        (
            "POST /admin/v1/replicas/0/drain?deadline_seconds=-1",
            "",
            Some("deadline_seconds"),
            "\"-1\"",
        ),
        ("POST /admin/v1/replicas/0/drain?deadline=3", "", Some("deadline"), "no such parameter"),
        ("POST /admin/v1/replicas/0/drain", r#"{"force":true}"#, None, "takes no body"),
        ("DELETE /admin/v1/operations/1", "x", None, "takes no body"),
    ] {
        let (status, body) = ask(address, line, body).await;
        let error = error(body);
        assert_eq!((status, error.field.as_deref()), (400, field), "{line}: {}", error.message);
        assert!(error.message.contains(says), "{says:?} not in {:?}", error.message);
    }
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    for key in ["", " ", "é", &long, "a\r\nIdempotency-Key: b"] {
        let header = format!("Idempotency-Key: {key}\r\n");
        let asked = request(&patch, &header, r#"{"data_parallel":1}"#);
        let (status, body) = raw(address, asked.as_bytes()).await;
        let error = error(serde_json::from_str(&body).expect("JSON"));
        assert_eq!((status, error.field.as_deref()), (400, Some("Idempotency-Key")), "{key}");
    }
}

#[tokio::test]
async fn refusals_have_a_status_a_code_and_their_numbers() {
    let id = OperationId(4);
    type Refusal = fn(&Change) -> Option<Refused>;
    let refusals: [(Refusal, u16, &str, Option<u64>, &str); 11] = [
        (
            |_| Some(Refused::Busy { running: OperationId(4) }),
            409,
            "busy",
            Some(id.0),
            "operation-4",
        ),
        (|_| Some(Refused::NoReplica(ReplicaId(9))), 404, "no_replica", None, "replica-9"),
        (|_| Some(Refused::NoNode("n".into())), 404, "no_node", None, "node n"),
        (|_| Some(Refused::NoOperation(OperationId(4))), 404, "no_operation", None, "operation-4"),
        (|_| Some(Refused::Ended(OperationId(4))), 409, "ended", Some(id.0), "has ended"),
        (
            |_| Some(Refused::KeyTaken { key: "k".into(), operation: OperationId(4) }),
            409,
            "key_taken",
            Some(id.0),
            "another change",
        ),
        (
            |_| Some(Refused::Devices("needs 8 devices, 3 are free".into())),
            422,
            "devices",
            None,
            "3 are free",
        ),
        (
            |_| Some(Refused::Invalid("14 heads by 4 ranks".into())),
            422,
            "invalid",
            None,
            "14 heads",
        ),
        (
            |_| Some(Refused::NeedsForce("nothing would serve".into())),
            409,
            "needs_force",
            None,
            "force",
        ),
        (|_| Some(Refused::Draining), 503, "draining", None, "shutting down"),
        (
            |_| Some(Refused::Journal("No space left".into())),
            503,
            "journal_failed",
            None,
            "No space left",
        ),
    ];
    for (refusal, status, code, operation, says) in refusals {
        let address = Script { refusal, ..Script::idle() }.serve(None).await;
        for query in ["", "?dry_run=true"] {
            let line = format!("PATCH {DEPLOYMENT}{query}");
            let (told, body) = ask(address, &line, r#"{"data_parallel":9}"#).await;
            let error = error(body);
            assert_eq!((told, error.code.as_str(), error.operation), (status, code, operation));
            assert!(error.message.contains(says), "{}", error.message);
        }
    }
}

#[tokio::test]
async fn unknown_ids_are_404() {
    let address = Script::idle().serve(None).await;
    for (line, code) in [
        ("GET /admin/v1/operations/1", "no_operation"),
        ("GET /admin/v1/operations/one", "no_operation"),
        ("DELETE /admin/v1/operations/99999999999999999999", "no_operation"),
        ("POST /admin/v1/replicas/-1/drain", "no_replica"),
        ("DELETE /admin/v1/replicas/4294967296", "no_replica"),
    ] {
        let (status, body) = ask(address, line, "").await;
        assert_eq!((status, error(body).code.as_str()), (404, code), "{line}");
    }
}

#[tokio::test]
async fn an_operation_is_aborted_once() {
    let script = Script::new();
    let address = script.serve(None).await;
    let (status, operation) = ask(address, "DELETE /admin/v1/operations/1", "").await;
    assert_eq!((status, &operation["phase"]), (202, &json!("prepare")));
    assert!(*script.ledger.aborted(OperationId(1)).expect("known").borrow());
    script.ledger.end(OperationId(1), Phase::Aborted);
    let (status, body) = ask(address, "DELETE /admin/v1/operations/1", "").await;
    let error = error(body);
    assert_eq!((status, error.code.as_str(), error.operation), (409, "ended", Some(1)));
}

#[tokio::test]
async fn the_list_is_the_newest_first_with_last_steps() {
    let script = Script::new();
    let address = script.serve(None).await;
    script.ledger.step(OperationId(1), Phase::Switch, "second");
    script.ledger.end(OperationId(1), Phase::Failed { reason: "no device".into() });
    let (status, _) = ask(address, "DELETE /admin/v1/nodes/n", "").await;
    assert_eq!(status, 202);
    let (_, list) = ask(address, "GET /admin/v1/operations", "").await;
    assert_eq!(
        (&list["operations"][0]["id"], &list["operations"][1]["id"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(list["operations"][1]["reason"], "no device");
    assert_eq!(list["operations"][1]["steps"].as_array().expect("steps").len(), 1);
    let (_, one) = ask(address, "GET /admin/v1/operations/1", "").await;
    let texts: Vec<_> =
        one["steps"].as_array().expect("steps").iter().map(|it| &it["text"]).collect();
    assert_eq!(texts, ["begun", "second"]);
}

/// A stream of events, read piece by piece.
struct Stream {
    socket: TcpStream,
    text: String,
}

impl Stream {
    async fn open(address: std::net::SocketAddr, id: u64, seen: Option<u64>) -> Self {
        let seen = seen.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let headers = format!("accept: text/event-stream\r\n{seen}");
        let asked = request(&format!("GET /admin/v1/operations/{id}"), &headers, "");
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        socket.write_all(asked.as_bytes()).await.expect("it reads");
        Self { socket, text: String::new() }
    }

    /// Reads until `text` has come, and the event that it is in.
    async fn until(&mut self, text: &str) {
        let is_whole = |all: &str| all.find(text).is_some_and(|at| all[at..].contains("\n\n"));
        while !is_whole(&self.text) {
            let mut piece = [0; 1024];
            let read = self.socket.read(&mut piece).await.expect("it is open");
            assert!(read > 0, "{text} in {}", self.text);
            self.text += std::str::from_utf8(&piece[..read]).expect("ASCII here");
        }
    }

    /// `(event, id, data)` of each, without comments and the framing of chunks.
    fn events(&self) -> Vec<(String, Option<u64>, Value)> {
        let body = self.text.split_once("\r\n\r\n").expect("a header block").1;
        let mut events = Vec::new();
        let (mut name, mut id) = (String::new(), None);
        for line in body.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = Some(value.parse().expect("a number")),
                Some(("data", value)) => {
                    let data = serde_json::from_str(value).expect("JSON on one line");
                    events.push((std::mem::take(&mut name), id.take(), data));
                }
                _ => {}
            }
        }
        events
    }
}

/// ADM-6
#[tokio::test]
async fn every_step_comes_once_and_then_the_end() {
    let script = Script::new();
    let address = script.serve(None).await;
    let mut stream = Stream::open(address, 1, None).await;
    stream.until("begun").await;
    assert!(stream.text.starts_with("HTTP/1.1 200"), "{}", stream.text);
    assert!(stream.text.contains("content-type: text/event-stream\r\n"), "{}", stream.text);
    for number in 0..40 {
        script.ledger.step(OperationId(1), Phase::Switch, &format!("number {number}"));
    }
    stream.until("number 39").await;
    let seen = stream.events();
    let texts: Vec<_> = seen.iter().skip(1).map(|(_, _, step)| step["text"].clone()).collect();
    assert_eq!(texts, (0..40).map(|number| format!("number {number}")).collect::<Vec<_>>());
    assert!(seen.iter().all(|(name, id, step)| name == "step" && step["at_unix_us"] == json!(id)));

    // Another reader goes on in the middle.
    let mut later = Stream::open(address, 1, seen[30].1).await;
    later.until("number 39").await;
    assert_eq!(later.events(), seen[31..]);

    script.ledger.end(OperationId(1), Phase::Failed { reason: "why not".into() });
    for stream in [&mut stream, &mut later] {
        stream.until("event: end").await;
        let mut rest = String::new();
        stream.socket.read_to_string(&mut rest).await.expect("it ends");
        stream.text += &rest;
        let (name, id, operation) = stream.events().pop().expect("an end");
        assert_eq!((name.as_str(), id, &operation["reason"]), ("end", None, &json!("why not")));
    }
    // Of what has ended, everything comes at once.
    let mut after = Stream::open(address, 1, None).await;
    after.until("event: end").await;
    assert_eq!(after.events().len(), 42);
}

/// ADM-6: a client that takes both gets the answer that ends at once.
#[tokio::test]
async fn only_who_asks_for_events_gets_them() {
    let address = Script::new().serve(None).await;
    for accept in ["*/*", "application/json", "application/json, text/event-stream"] {
        let headers = format!("accept: {accept}\r\n");
        let asked = request("GET /admin/v1/operations/1", &headers, "");
        let (status, body) = raw(address, asked.as_bytes()).await;
        assert_eq!(status, 200);
        serde_json::from_str::<view::Operation>(&body).expect("JSON");
    }
    let headers = "accept: text/event-stream\r\nlast-event-id: last\r\n";
    let asked = request("GET /admin/v1/operations/1", headers, "");
    let (status, body) = raw(address, asked.as_bytes()).await;
    let error = error(serde_json::from_str(&body).expect("JSON"));
    assert_eq!((status, error.field.as_deref()), (400, Some("Last-Event-ID")));
}

/// ADM-3
#[tokio::test]
async fn streams_leave_room_for_requests() {
    let script = Script::new();
    let address = script.serve(None).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = Stream::open(address, 1, None).await;
        stream.until("begun").await;
        streams.push(stream);
    }
    let headers = "accept: text/event-stream\r\n";
    let asked = request("GET /admin/v1/operations/1", headers, "");
    let (status, body) = raw(address, asked.as_bytes()).await;
    let refused = error(serde_json::from_str(&body).expect("JSON"));
    assert_eq!((status, refused.code.as_str()), (503, "too_many_streams"));
    assert_eq!(ask(address, "GET /admin/v1/operations/1", "").await.0, 200);
    // A place is free again once a reader has its end.
    script.ledger.end(OperationId(1), Phase::Done);
    for stream in &mut streams {
        stream.socket.read_to_string(&mut stream.text).await.expect("it ends");
    }
    Stream::open(address, 1, None).await.until("event: end").await;
}

/// ADM-5
#[tokio::test]
async fn strangers_do_not_keep_an_operator_out() {
    let address = Script::new().serve(None).await;
    let mut strangers = Vec::new();
    for _ in 0..3 * CONNECTIONS_MAX {
        let mut stranger = TcpStream::connect(address).await.expect("it listens");
        stranger.write_all(b"GET /admin/v1/livez HTTP/1.1\r\nx:").await.expect("it reads");
        strangers.push(stranger);
    }
    let start = Instant::now();
    let (status, _) = ask(address, "GET /admin/v1/cluster", "").await;
    assert_eq!(status, 200);
    assert!(start.elapsed() < CONNECTION_MAX, "it did not wait for their deadline");
    let mut byte = [0];
    let first = strangers[0].read(&mut byte).await;
    assert!(matches!(first, Ok(0) | Err(_)), "the oldest gave way");
}

/// An audit log in memory; it fails while it is told to.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    is_full: Mutex<bool>,
}

impl AuditLog for Log {
    fn write(&self, entry: &AuditEntry) -> io::Result<()> {
        if *self.is_full.lock() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let line = serde_json::to_value(entry).expect("JSON");
        self.lines.lock().push(line);
        Ok(())
    }
}

/// AUD-2, AUD-3
#[tokio::test]
async fn every_change_is_two_lines_without_secrets() {
    let log = Arc::new(Log::default());
    let script = Script::idle();
    let audit = Arc::clone(&log) as Arc<dyn AuditLog>;
    let address = script.serve(Some(audit)).await;
    let line = format!("PATCH {DEPLOYMENT}?dry_run=false");
    let asked = request(&line, "idempotency-key: k\r\n", r#"{"data_parallel":4}"#);
    assert_eq!(raw(address, asked.as_bytes()).await.0, 202);
    assert_eq!(ask(address, "DELETE /admin/v1/nodes/n", "").await.0, 409);
    assert_eq!(ask(address, "POST /admin/v1/tokens", r#"{"ttl_seconds":5}"#).await.0, 200);
    for read in ["GET /admin/v1/deployment", "GET /admin/v1/operations/1"] {
        assert_eq!(ask(address, read, "").await.0, 200);
    }
    assert_eq!(raw(address, b"DELETE /admin/v1/nodes/n HTTP/1.1\r\n\r\n").await.0, 401);
    let mut lines = log.lines.lock().clone();
    for line in &mut lines {
        let peer = line["peer"].take();
        assert!(peer.as_str().expect("an address").starts_with("127.0.0.1:"), "{peer}");
    }
    let patch = json!({
        "event": "asked", "request": 0, "token": "admin", "peer": null, "method": "PATCH",
        "path": "/admin/v1/deployment?dry_run=false", "key": "k", "change": {"data_parallel": 4},
    });
    assert_eq!(lines[0], patch);
    let mut answered = patch;
    answered["event"] = json!("answered");
    (answered["status"], answered["operation"]) = (json!(202), json!(1));
    assert_eq!(lines[1], answered);
    assert_eq!((&lines[3]["code"], &lines[3]["operation"]), (&json!("busy"), &json!(1)));
    assert_eq!((&lines[5]["status"], &lines[5]["request"]), (&json!(200), &json!(2)));
    assert_eq!(lines.len(), 6);
    let all = serde_json::to_string(&lines).expect("JSON");
    assert!(!all.contains(script::TOKEN) && !all.contains("token for 5 s"), "{all}");
}

/// AUD-1
#[tokio::test]
async fn nothing_changes_that_cannot_be_logged() {
    let log = Arc::new(Log::default());
    let script = Script::idle();
    let address = script.serve(Some(Arc::clone(&log) as Arc<dyn AuditLog>)).await;
    let patch = format!("PATCH {DEPLOYMENT}");
    *log.is_full.lock() = true;
    let (status, body) = ask(address, &patch, r#"{"data_parallel":4}"#).await;
    let refused = error(body);
    assert_eq!((status, refused.code.as_str()), (503, "audit_failed"));
    assert!(refused.message.contains("no storage space"), "{}", refused.message);
    assert!(script.ledger.operations().is_empty());
    assert_eq!(ask(address, "GET /admin/v1/cluster", "").await.0, 200, "serving goes on");
    *log.is_full.lock() = false;
    assert_eq!(ask(address, &patch, r#"{"data_parallel":4}"#).await.0, 202);
}
