//! What the gateway costs: the real server on a real socket, the real front door and actors, an
//! engine that says tokens from a script, and the load generator, all in one process.
//!
//! ```text
//! cargo bench -p playhouse-gateway [-- SECONDS]
//! ```
//!
//! Prints requests per second of whole answers, what one client alone waits for an answer, and
//! streamed tokens per second.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

#[path = "../../cluster/tests/engines/scripted.rs"]
mod scripted;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use playhouse_cluster::{AdmissionLimits, Cluster, DeploymentConfig, Layout, Share};
use playhouse_gateway::{ChatTemplate, Gateway, GatewayConfig, Tokenizer, serve};
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::TokenId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use scripted::{engines, no_fault};

const LIMITS: Limits = Limits {
    max_num_seqs: 256,
    max_num_batched_tokens: 8192,
    max_model_len: 4096,
    kv_blocks: 1 << 16,
    stages: 1,
    prefix_caching: true,
};

const TEMPLATE: &str = "{% for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + \
    message['content'] + '<|im_end|>' + '\\n' }}{%- endfor %}{{- '<|im_start|>assistant\\n' }}";

const CLIENTS: usize = 64;

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(5.0);
    let period = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        whole_answers(period).await;
        streams(period).await;
    });
}

async fn whole_answers(period: Duration) {
    let address = start().await;
    let request = chat(r#""max_tokens":16"#);
    let answers = gather(CLIENTS, period, address, request.clone()).await;
    let rate = answers.len() as f64 / period.as_secs_f64();
    println!("whole answers:   {rate:>9.0} requests/s  ({CLIENTS} clients, 16 tokens each)");
    // The scripted engine takes no time: with one token this is what all the rest adds, and each
    // further token adds a turn through the replica and the engine's queue.
    for tokens in [1, 16] {
        let request = chat(&format!(r#""max_tokens":{tokens}"#));
        let mut alone = gather(1, period / 2, address, request).await;
        alone.sort_unstable();
        let at = |part: f64| alone[(alone.len() as f64 * part) as usize].as_secs_f64() * 1e3;
        println!("one client, {tokens:>2} tokens: p50 {:.3} ms, p99 {:.3} ms", at(0.5), at(0.99));
    }
}

async fn streams(period: Duration) {
    let address = start().await;
    let request = chat(r#""max_tokens":256,"stream":true"#);
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(read_streams(address, request.clone(), started + period)))
        .collect();
    let mut events = 0;
    for client in clients {
        events += client.await.expect("a client does not panic");
    }
    let rate = events as f64 / started.elapsed().as_secs_f64();
    println!("streamed tokens: {rate:>9.0} tokens/s    ({CLIENTS} streams)");
}

/// The times of all requests of `clients` connections within `period`.
async fn gather(
    clients: usize,
    period: Duration,
    address: SocketAddr,
    request: Arc<[u8]>,
) -> Vec<Duration> {
    let end = Instant::now() + period;
    let tasks: Vec<_> = (0..clients)
        .map(|_| tokio::spawn(read_answers(address, Arc::clone(&request), end)))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client does not panic"));
    }
    times
}

async fn read_answers(address: SocketAddr, request: Arc<[u8]>, end: Instant) -> Vec<Duration> {
    let mut stream = connect(address).await;
    let mut buffer = vec![0; 64 << 10];
    let mut times = Vec::new();
    while Instant::now() < end {
        let sent = Instant::now();
        stream.write_all(&request).await.expect("the server reads");
        let mut filled = 0;
        // The answer ends with the usage object.
        while !buffer[..filled].ends_with(b"}}}") {
            filled += stream.read(&mut buffer[filled..]).await.expect("the server answers");
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
        times.push(sent.elapsed());
    }
    times
}

/// Events of one stream after another.
async fn read_streams(address: SocketAddr, request: Arc<[u8]>, end: Instant) -> u64 {
    let mut stream = connect(address).await;
    let mut buffer = vec![0; 64 << 10];
    let mut events = 0;
    while Instant::now() < end {
        stream.write_all(&request).await.expect("the server reads");
        let mut tail = Vec::new();
        while !tail.ends_with(b"\r\n0\r\n\r\n") {
            let read = stream.read(&mut buffer).await.expect("the server answers");
            // Every event ends with two bare line feeds; headers and chunks have carriage returns.
            let ends = buffer[..read].windows(2).filter(|pair| pair == b"\n\n").count();
            events += ends as u64;
            tail.extend_from_slice(&buffer[..read]);
            tail.drain(..tail.len().saturating_sub(8));
        }
        // Role, finish and [DONE] are no tokens.
        events -= 3;
    }
    events
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

fn chat(fields: &str) -> Arc<[u8]> {
    let body = format!(
        r#"{{"model":"tiny","messages":[{{"role":"user","content":"What is the capital of France?"}}],{fields}}}"#
    );
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
    .into()
}

async fn start() -> SocketAddr {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/reference/tokenizer/tokenizer.json");
    let tokenizer = std::fs::read(file).expect("the reference tokenizer is there");
    let tokenizer = Tokenizer::from_bytes(&tokenizer).expect("loads");
    let template = ChatTemplate::new(TEMPLATE, vec![]).expect("compiles");
    let metrics = Arc::new(Metrics::new("tiny"));
    let deployment = DeploymentConfig {
        replicas: NonZeroU32::MIN,
        layout: Layout { stages: 1, tensor: 1 },
        shares: vec![Share { layers: 0..1, query_heads: 1, kv_heads: 1, weight_bytes: 1 }],
        starter: engines(letter, no_fault()),
        control: None,
        limits: LIMITS,
        admission: AdmissionLimits { requests: 4096, prompt_tokens: 1 << 22 },
        vocab: 288,
        shared_prompt_max: usize::MAX,
        metrics: Arc::clone(&metrics),
    };
    let cluster = Cluster::start(deployment).await.expect("the actors start");
    cluster.serving().await.expect("its replica serves");
    let door = cluster.front_door().clone();
    let gateway =
        Gateway::new(GatewayConfig::new("tiny"), door, tokenizer, Some(template), metrics)
            .expect("a valid configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, gateway, std::future::pending()));
    address
}

/// A letter for each position.
fn letter(position: usize) -> TokenId {
    64 + position as TokenId % 26
}
