//! **ADM-3** on a clock that tests turn.

use std::time::Duration;

use playhouse_cluster::{ClusterStatus, NoToken};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::routes::BODY_BYTES_MAX;

#[derive(Clone)]
struct Script;

impl Operations for Script {
    fn status(&self) -> ClusterStatus {
        ClusterStatus { nodes: vec![], replicas: vec![], in_flight: 0, draining: false }
    }

    fn create_token(&self, _: Duration) -> Result<String, NoToken> {
        panic!("nobody sent a whole request")
    }
}

/// A client of a connection with a little room on the way.
fn connect() -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = duplex(64);
    let router = router(&AdminConfig { token: "t".to_owned() }, Script);
    (client, tokio::spawn(connection(server, router)))
}

const CLUSTER: &[u8] = b"GET /admin/v1/cluster HTTP/1.1\r\nauthorization: Bearer t\r\n\r\n";
const POST: &str = "POST /admin/v1/tokens HTTP/1.1\r\nauthorization: Bearer t\r\n";

#[tokio::test(start_paused = true)]
async fn slow_heads_and_bodies_are_cut_off() {
    let body = format!("{POST}content-length: 20\r\n\r\n{{\"ttl");
    for sent in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nhost: x\r\n", body.as_bytes()] {
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
