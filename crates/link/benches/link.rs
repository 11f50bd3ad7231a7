//! The cost of the control plane: calls, streams of tokens, and calls while bulk data is sent.
//!
//! `cargo bench -p playhouse-link` prints a table. The other side is a child process, so that both
//! have their own runtimes, as in a cluster.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use playhouse_link::{
    Arrivals, Authority, Endpoint, Identity, Knock, LinkConfig, Peer, Stream, Streams,
};
use playhouse_types::{Emission, Epoch, GenerateRequest, RequestId, Sampled, SamplingParams};
use playhouse_wire::{
    BulkOpening, GenerationEvent, GenerationRequest, Kind, NodeReply, NodeRequest, PeerId, Role,
};
use tokio::runtime::Handle;

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
    // On a worker, as handlers and actors are.
    match env::var_os("LINK_BENCH_CHILD") {
        Some(_) => runtime.block_on(runtime.spawn(serve())),
        None => runtime.block_on(runtime.spawn(measure())),
    }
    .expect("no panic");
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
    let plain = UdpSocket::bind(loopback()).expect("a socket");
    println!("{}", endpoint.local_addr().expect("an address"));
    println!("{}", plain.local_addr().expect("an address"));
    io::stdout().flush().expect("the parent reads");
    let (peer, inbox) = admit(&mut arrivals).await;
    thread::spawn(move || echo(&plain));
    endpoint.runtime().spawn(answer(inbox.streams, Handle::current()));
    peer.until_lost().await;
}

async fn admit(arrivals: &mut Arrivals) -> (Peer, playhouse_link::Inbox) {
    match arrivals.next().await.expect("somebody comes") {
        Knock::Peer(arrival) => arrival.admit(Epoch(0)).await.expect("it is still there"),
        Knock::TurnedAway(turned) => panic!("{turned}"),
    }
}

/// Sends every datagram back.
fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        socket.send_to(&buffer[..length], from).expect("loopback takes it");
    }
}

/// Runs on the link's runtime. `Kill` is answered on the process's own instead.
async fn answer(mut streams: Streams, own: Handle) {
    let mut opened = Vec::new();
    while let Some(incoming) = streams.next().await {
        match incoming.kind() {
            Kind::NodeRequest => {
                let (request, mut stream) = incoming.take::<NodeRequest>().expect("a call");
                let reply = async move {
                    // The caller may be gone at the end.
                    if stream.sender.send(&NodeReply::Killed).await.is_ok() {
                        drop(stream.sender.finish().await);
                    }
                };
                match request {
                    NodeRequest::Kill { .. } => drop(own.spawn(reply)),
                    _ => reply.await,
                }
            }
            Kind::Bulk => {
                let mut reader = incoming.take_bulk().expect("bulk");
                own.spawn(async move { while let Ok(Some(_)) = reader.next().await {} });
            }
            _ => {
                let (_, stream) = incoming.take::<GenerationRequest>().expect("a generation");
                opened.push(stream);
                if opened.len() == STREAMS as usize {
                    tokio::spawn(generate(std::mem::take(&mut opened)));
                }
            }
        }
    }
}

/// One token per stream and step, on the link's runtime: where a process that hosts replicas would
/// hand out the tokens of a step.
async fn generate(mut streams: Vec<Stream<GenerationEvent, GenerationRequest>>) {
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
        // The end of a step: what was written leaves now, many tokens to a packet.
        tokio::task::yield_now().await;
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
    let (mut child, addr, plain) = spawn(&bytes.expect("an identity"));
    let identity = authority.identify(&head).expect("an identity");
    let (endpoint, _arrivals) =
        Endpoint::bind(loopback(), &identity, 1, config()).expect("a socket");
    let (peer, _inbox) = endpoint.dial(addr, &node, Epoch(0)).await.expect("the child listens");

    println!("{:<44} {:>10} {:>10} {:>10}", "two processes, loopback", "p50", "p99", "max");
    row("a datagram and back, microseconds", datagrams(plain));
    let on_link = endpoint.runtime().spawn(calls(peer.clone(), NodeRequest::Stats));
    row("idle call, tasks on the links' runtimes", on_link.await.expect("no panic"));
    let elsewhere = calls(peer.clone(), NodeRequest::Kill { pid: 1 });
    row("idle call, tasks on runtimes of their own", elsewhere.await);
    let (rate, step) = tokens(&peer).await;
    println!("{:<44} {rate:>10.0}", "256 streams, one token per step, tokens/s");
    println!("{:<44} {:>10.0}", "  microseconds per step of 256 tokens", step.as_secs_f64() * 1e6);
    let (times, rate) = bulk(&peer).await;
    row("call during 256 MiB of bulk, microseconds", times);
    println!("{:<44} {rate:>10.0}", "  bulk, MB/s");
    peer.close("done");
    child.wait().expect("the child ends with its peer");
}

/// The child, where it listens, and where it sends datagrams back.
fn spawn(identity: &[u8]) -> (Child, SocketAddr, SocketAddr) {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .env("LINK_BENCH_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(identity).expect("the child reads");
    drop(stdin);
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut addr = || lines.next().expect("a line").expect("text").parse().expect("an address");
    let (link, plain) = (addr(), addr());
    (child, link, plain)
}

/// Times of round trips without a link.
fn datagrams(to: SocketAddr) -> Vec<Duration> {
    let socket = UdpSocket::bind(loopback()).expect("a socket");
    let round_trip = |_| {
        let start = Instant::now();
        socket.send_to(&[7; 64], to).expect("loopback takes it");
        socket.recv(&mut [0; 64]).expect("it comes back");
        start.elapsed()
    };
    (0..CALLS).map(round_trip).collect()
}

async fn calls(peer: Peer, request: NodeRequest) -> Vec<Duration> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        times.push(call(&peer, request.clone()).await);
    }
    times
}

async fn call(peer: &Peer, request: NodeRequest) -> Duration {
    let start = Instant::now();
    peer.call(request, WITHIN).await.expect("a reply");
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
        .map(|stream| {
            tokio::spawn(async move {
                // Dropping the sender would cancel the request.
                let Stream { sender, mut receiver } = stream;
                let mut read = 0;
                while receiver.next().await.expect("a token").is_some() {
                    read += 1;
                }
                drop(sender);
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
        times.push(call(peer, NodeRequest::Kill { pid: 1 }).await);
    }
    let took = transfer.await.expect("the transfer ends");
    (times, BULK_BYTES as f64 / 1e6 / took.as_secs_f64())
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{name:<44} {:>10.1} {:>10.1} {:>10.1}", at(0.5), at(0.99), at(1.0));
}
