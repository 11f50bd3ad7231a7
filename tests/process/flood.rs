//! The cluster's port under a flood: half handshakes and garbage, while the cluster serves.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use serde_json::json;

use crate::cluster::{Head, post, wait_until};

/// Handshakes that are begun and never go on.
const HANDSHAKES: usize = 2000;

/// Addresses they seem to come from.
const ADDRESSES: u8 = 40;

/// Datagrams of garbage in between.
const GARBAGE: usize = 20_000;

/// Begins handshakes that never get an answer, until `stop`: what comes in at the returned address is
/// sent to `head` from many addresses, and nothing comes back.
fn one_way(head: SocketAddr, stop: &AtomicBool, sent: &AtomicUsize, entrance: &UdpSocket) {
    let fronts: Vec<UdpSocket> = (2..2 + ADDRESSES)
        .map(|last| {
            UdpSocket::bind(SocketAddr::from(([127, 0, 0, last], 0)))
                .expect("loopback has many addresses")
        })
        .collect();
    let (mut buffer, mut turn) = ([0; 2048], 0);
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = entrance.recv_from(&mut buffer) else { continue };
        // A client keeps its front, so that its handshake is one.
        let front = &fronts[usize::from(from.port()) % fronts.len()];
        drop(front.send_to(&buffer[..length], head));
        turn = (turn + 1) % fronts.len();
        // Something that is nearly a long header, and something that is nothing.
        for _ in 0..GARBAGE / HANDSHAKES {
            buffer[turn] ^= 0x5a;
            drop(fronts[turn].send_to(&buffer[turn..length.max(turn)], head));
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

/// Clients that dial `entrance`.
async fn dial(entrance: SocketAddr, stop: &AtomicBool) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"playhouse-join".to_vec()];
    let tls = QuicClientConfig::try_from(tls).expect("a cipher for QUIC");
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let clients: Vec<quinn::Endpoint> = (0..ADDRESSES)
        .map(|_| quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port"))
        .collect();
    let mut begun = Vec::with_capacity(HANDSHAKES);
    for index in 0..HANDSHAKES {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let client = &clients[index % clients.len()];
        begun.push(client.connect_with(config.clone(), entrance, "head").expect("dialled"));
        tokio::task::yield_now().await;
    }
    // They send again what was not answered.
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_cluster_serves_and_lets_nodes_in_under_a_flood_of_half_handshakes() {
    let mut head = Head::start(None, "127.0.0.1", &["-pp", "2"]);
    let _first = head.node(None, "first", Some(&head.token()));
    let api = head.api();
    let request = json!({ "prompt": "The sea", "max_tokens": 100, "ignore_eos": true, "seed": 1,
        "return_token_ids": true });
    let before = post(&api, &request)["choices"][0]["token_ids"].clone();
    let epoch = head.status()["replicas"][0]["epoch"].clone();

    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let entrance = UdpSocket::bind(("127.0.0.1", 0)).expect("a port");
    entrance.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    let at = entrance.local_addr().expect("bound");
    let join: SocketAddr = head.join.parse().expect("an address");
    thread::scope(|scope| {
        scope.spawn(|| one_way(join, &stop, &sent, &entrance));
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(dial(at, &stop));
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("the flood has begun", || sent.load(Ordering::Relaxed) > HANDSHAKES / 2);
            let during = post(&api, &request)["choices"][0]["token_ids"].clone();
            assert_eq!(during, before);
            // One chance: a join is not tried again.
            let second = head.node(None, "second", Some(&head.token()));
            wait_until("a node joins through it", || {
                head.status()["nodes"].to_string().contains("second")
            });
            second
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.map(drop).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(sent.load(Ordering::Relaxed) >= HANDSHAKES / 2);
    assert_eq!(post(&api, &request)["choices"][0]["token_ids"], before);
    let now = head.status()["replicas"][0].clone();
    assert_eq!(now["epoch"], epoch, "no rank was lost: {now}");
}
