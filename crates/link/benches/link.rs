//! What the control plane costs: calls, streams of tokens, and calls while bulk data passes.
//!
//! `cargo bench -p playhouse-link` prints a table. The other side is a child process, so that both
//! have their own runtimes, as in a cluster.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use playhouse_link::{Arrivals, Authority, Endpoint, Identity, Knock, LinkConfig, Peer, Streams};
use playhouse_types::{Emission, Epoch, GenerateRequest, RequestId, Sampled, SamplingParams};
use playhouse_wire::{
    BulkOpening, GenerationEvent, GenerationRequest, Kind, NodeReply, NodeRequest, NodeStats,
    PeerId, Role,
};

const CALLS: usize = 20_000;
const STREAMS: u32 = 256;
const STEPS: u32 = 800;
const BULK_BYTES: u64 = 256 << 20;
const WITHIN: Duration = Duration::from_secs(30);
/// More than the defaults, because the machine of a benchmark may be busy with others.
const IDLE: Duration = Duration::from_secs(5);

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    match env::var_os("LINK_BENCH_CHILD") {
        Some(_) => runtime.block_on(serve()),
        None => runtime.block_on(measure()),
    }
}

fn config() -> LinkConfig {
    LinkConfig { idle: IDLE, ..LinkConfig::default() }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The child: answers calls, streams tokens, takes bulk.
async fn serve() {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).expect("the parent writes an identity");
    let identity = Identity::from_bytes(&bytes).expect("an identity");
    let (endpoint, mut arrivals) =
        Endpoint::bind(loopback(), &identity, 1, config()).expect("a socket");
    println!("{}", endpoint.local_addr().expect("an address"));
    io::stdout().flush().expect("the parent reads");
    let (peer, inbox) = admit(&mut arrivals).await;
    let mut lost = peer.lost();
    tokio::spawn(answer(inbox.streams));
    lost.wait_for(Option::is_some).await.expect("the link reports the end");
}

async fn admit(arrivals: &mut Arrivals) -> (Peer, playhouse_link::Inbox) {
    match arrivals.next().await.expect("somebody comes") {
        Knock::Peer(arrival) => arrival.admit(Epoch(0)).await.expect("it is still there"),
        Knock::TurnedAway(turned) => panic!("{turned}"),
    }
}

async fn answer(mut streams: Streams) {
    let mut senders = Vec::new();
    while let Some(incoming) = streams.next().await {
        match incoming.kind() {
            Kind::NodeRequest => {
                let (_, mut stream) = incoming.take::<NodeRequest>().expect("a call");
                let stats = NodeStats { processes: 1, memory_free: 2 };
                // The caller may be gone at the end.
                if stream.sender.send(&NodeReply::Stats(stats)).await.is_ok() {
                    drop(stream.sender.finish().await);
                }
            }
            Kind::Bulk => {
                let mut reader = incoming.take_bulk().expect("bulk");
                tokio::spawn(async move { while let Ok(Some(_)) = reader.next().await {} });
            }
            _ => {
                let (_, stream) = incoming.take::<GenerationRequest>().expect("a generation");
                senders.push(stream);
                if senders.len() == STREAMS as usize {
                    tokio::spawn(generate(std::mem::take(&mut senders)));
                }
            }
        }
    }
}

/// One token per stream and step, as a replica does.
async fn generate(mut streams: Vec<playhouse_link::Stream<GenerationEvent, GenerationRequest>>) {
    for step in 0..STEPS {
        for stream in &mut streams {
            let emission = Emission {
                id: RequestId(1),
                cached_tokens: 0,
                prompt_logprobs: Vec::new(),
                token: Some(Sampled { token: step, logprobs: None }),
                finish: None,
            };
            stream.sender.send(&GenerationEvent::Emission(emission)).await.expect("a reader");
        }
    }
    for stream in streams {
        stream.sender.finish().await.expect("a reader");
    }
}

async fn measure() {
    let authority = Authority::new().expect("an authority");
    let id = |role, name| PeerId::new(role, name).expect("a name");
    let (head, node) = (id(Role::Head, "head"), id(Role::Node, "a"));
    let bytes = authority.identify(&node).and_then(|identity| identity.to_bytes());
    let (mut child, addr) = spawn(&bytes.expect("an identity"));
    let identity = authority.identify(&head).expect("an identity");
    let (endpoint, _arrivals) =
        Endpoint::bind(loopback(), &identity, 1, config()).expect("a socket");
    let (peer, _inbox) = endpoint.dial(addr, &node, Epoch(0)).await.expect("the child listens");

    println!("{:<44} {:>10} {:>10} {:>10}", "two processes, loopback", "p50", "p99", "max");
    calls(&peer, CALLS / 10).await;
    row("idle call, microseconds", calls(&peer, CALLS).await);
    let (rate, step) = tokens(&peer).await;
    println!("{:<44} {rate:>10.0}", "256 streams, one token per step, tokens/s");
    println!("{:<44} {:>10.0}", "  microseconds per step of 256 tokens", step.as_secs_f64() * 1e6);
    let (times, rate) = bulk(&peer).await;
    row("call during 256 MiB of bulk, microseconds", times);
    println!("{:<44} {rate:>10.0}", "  bulk, MB/s");
    peer.close("done");
    child.wait().expect("the child ends with its peer");
}

fn spawn(identity: &[u8]) -> (Child, SocketAddr) {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .env("LINK_BENCH_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(identity).expect("the child reads");
    drop(stdin);
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("the child writes");
    (child, line.trim().parse().expect("an address"))
}

async fn calls(peer: &Peer, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(call(peer).await);
    }
    times
}

async fn call(peer: &Peer) -> Duration {
    let start = Instant::now();
    peer.call(NodeRequest::Stats, WITHIN).await.expect("a reply");
    start.elapsed()
}

/// Tokens per second over all streams, and the time of a step.
async fn tokens(peer: &Peer) -> (f64, Duration) {
    let mut streams = Vec::new();
    for id in 0..STREAMS {
        let request = GenerateRequest {
            id: RequestId(id.into()),
            prompt: [1, 2, 3].into(),
            sampling: SamplingParams::greedy(STEPS).into(),
            cache_salt: 0,
        };
        let request = GenerationRequest::Generate { replica: 0, epoch: Epoch(0), request };
        streams.push(peer.open(request, WITHIN).await.expect("a stream"));
    }
    let start = Instant::now();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let mut read = 0;
                while stream.receiver.next().await.expect("a token").is_some() {
                    read += 1;
                }
                read
            })
        })
        .collect();
    let mut read = 0;
    for reader in readers {
        read += reader.await.expect("a reader");
    }
    assert_eq!(read, STREAMS * STEPS);
    (f64::from(read) / start.elapsed().as_secs_f64(), start.elapsed() / STEPS)
}

/// Times of calls while bulk passes, and its rate in MB/s.
async fn bulk(peer: &Peer) -> (Vec<Duration>, f64) {
    let opening = BulkOpening { tag: 1, bytes: BULK_BYTES };
    let mut writer = peer.open_bulk(opening, WITHIN).await.expect("a stream");
    let start = Instant::now();
    let transfer = tokio::spawn(async move {
        let piece = Bytes::from(vec![7; 1 << 20]);
        for _ in 0..BULK_BYTES >> 20 {
            writer.write(piece.clone()).await.expect("a reader");
        }
        writer.finish().await.expect("a reader");
        start.elapsed()
    });
    let mut times = Vec::new();
    while !transfer.is_finished() {
        times.push(call(peer).await);
    }
    let took = transfer.await.expect("the transfer ends");
    (times, BULK_BYTES as f64 / 1e6 / took.as_secs_f64())
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{name:<44} {:>10.1} {:>10.1} {:>10.1}", at(0.5), at(0.99), at(1.0));
}
