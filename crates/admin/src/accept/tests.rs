//! **ADM-3** on a clock that tests control.

use std::time::Duration;

use std::sync::Arc;
use std::time::SystemTime;

use playhouse_cluster::{
    Answer, Change, ClusterStatus, DeploymentStatus, Ledger, NoToken, NotRevoked, Operation,
    OperationId, Phase, Refused,
};
use playhouse_listener::Client;
use playhouse_types::ParallelSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;
use crate::body::BODY_BYTES_MAX;

#[derive(Clone)]
struct Script(Arc<Ledger>);

impl Operations for Script {
    fn status(&self) -> ClusterStatus {
        ClusterStatus { nodes: vec![], replicas: vec![], in_flight: 0, draining: false }
    }

    fn create_token(&self, _: Duration) -> Result<String, NoToken> {
        panic!("nobody sent a whole request")
    }

    fn revoke_node(&self, _: &str) -> Result<bool, NotRevoked> {
        panic!("nobody sent a whole request")
    }

    async fn deployment(&self) -> DeploymentStatus {
        let desired = self.0.desired().expect("it is set");
        let drained = self.0.drained();
        DeploymentStatus { desired, drained, running: None, durable: false }
    }

    async fn change(&self, _: Change, _: Option<String>, _: bool) -> Result<Answer, Refused> {
        panic!("nobody asked for one")
    }

    async fn operations(&self) -> Vec<Operation> {
        self.0.operations()
    }

    async fn operation(&self, id: OperationId) -> Option<watch::Receiver<Operation>> {
        self.0.watch(id)
    }

    async fn abort(&self, id: OperationId) -> Result<Operation, Refused> {
        self.0.abort(id)
    }
}

/// With one operation under way.
fn script() -> Script {
    let ledger = Ledger::in_memory();
    let layout = ParallelSpec { tensor: 1, pipeline: 1, ..ParallelSpec::default() };
    let desired = playhouse_cluster::Desired { replicas: 1, layout };
    let change = Change::UndrainNode { node: "n".to_owned() };
    let aims = (desired, ledger.drained());
    ledger.begin(change, None, aims, SystemTime::now()).expect("it is the first");
    Script(Arc::new(ledger))
}

/// A client of a connection with a little room on the way.
fn connect() -> (DuplexStream, JoinHandle<()>) {
    connect_to(script())
}

fn connect_to(script: Script) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = duplex(64);
    let router =
        router(&AdminConfig { token: "t".to_owned(), audit: None, tls: None }, script, true);
    let attended = async move {
        service(router).attend(server, Client::new(None)).await;
    };
    (client, tokio::spawn(attended))
}

const CLUSTER: &[u8] = b"GET /admin/v1/cluster HTTP/1.1\r\nauthorization: Bearer t\r\n\r\n";
const POST: &str = "POST /admin/v1/tokens HTTP/1.1\r\nauthorization: Bearer t\r\n";

#[tokio::test(start_paused = true)]
async fn slow_heads_and_bodies_are_cut_off() {
    let body = format!("{POST}content-length: 20\r\n\r\n{{\"ttl");
    for sent in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nhost: localhost\r\n", body.as_bytes()] {
        let start = Instant::now();
        let (mut client, server) = connect();
        client.write_all(sent).await.expect("it reads");
        server.await.expect("it ends");
        assert_eq!(start.elapsed(), CONNECTION_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_trickles_gets_no_more_time() {
    let start = Instant::now();
    let (mut client, server) = connect();
    client.write_all(b"GET / HTTP/1.1\r\nx: ").await.expect("it reads");
    while client.write_all(b"y").await.is_ok() {
        sleep(Duration::from_millis(100)).await;
    }
    server.await.expect("it ends");
    assert!(start.elapsed() <= CONNECTION_MAX + Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let start = Instant::now();
    let (mut client, server) = connect();
    client.write_all(CLUSTER).await.expect("it reads");
    server.await.expect("it ends");
    assert_eq!(start.elapsed(), CONNECTION_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_refused_after_its_first_kibibytes() {
    let (client, server) = connect();
    let (mut answers, mut client) = tokio::io::split(client);
    let sending = tokio::spawn(async move {
        let head = format!("{POST}transfer-encoding: chunked\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("it reads");
        let mut sent = 0;
        while client.write_all(b"10\r\n                \r\n").await.is_ok() {
            sent += 16;
        }
        sent
    });
    let mut answer = Vec::new();
    answers.read_to_end(&mut answer).await.expect("it answers");
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    server.await.expect("it ends");
    assert!(sending.await.expect("it is refused") < 4 * BODY_BYTES_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_connection_carries_one_request() {
    let (mut client, server) = connect();
    let sending = [CLUSTER, CLUSTER].concat();
    let mut answer = Vec::new();
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let (_, read) = tokio::join!(writer.write_all(&sending), reader.read_to_end(&mut answer));
    read.expect("it answers");
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 200").count(), 1);
    server.await.expect("it ends");
}

const FOLLOW: &[u8] = b"GET /admin/v1/operations/1 HTTP/1.1\r\nauthorization: Bearer t\r\n\
    accept: text/event-stream\r\n\r\n";

/// A client that follows an operation may stay until it ends.
#[tokio::test(start_paused = true)]
async fn a_stream_outlives_the_deadline_of_a_request() {
    let script = script();
    let ledger = Arc::clone(&script.0);
    let (mut client, server) = connect_to(script);
    client.write_all(FOLLOW).await.expect("it reads");
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("it answers");
        String::from_utf8(answer).expect("UTF-8")
    });
    let start = Instant::now();
    sleep(CONNECTION_MAX * 4).await;
    ledger.step(OperationId(1), Phase::Retire, "late");
    ledger.end(OperationId(1), Phase::Done);
    let answer = reading.await.expect("it reads");
    server.await.expect("it ends");
    assert!(start.elapsed() < CONNECTION_MAX * 5);
    assert!(answer.contains("late") && answer.contains("event: end"), "{answer}");
}

/// A stream whose reader stops reading, and one whose operation never ends.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_last() {
    for reads in [false, true] {
        let start = Instant::now();
        let (mut client, server) = connect();
        client.write_all(FOLLOW).await.expect("it reads");
        if reads {
            client.read_to_end(&mut Vec::new()).await.expect("it ends");
        }
        server.await.expect("it ends");
        assert_eq!(start.elapsed(), CONNECTION_MAX + STREAM_MAX);
    }
}
