//! The cost of the gateway: the real server on a real socket, the real front door and actors, an engine
//! that emits tokens from a script, and the load generator, all in one process.
//!
//! ```text
//! cargo bench -p playhouse-gateway [-- SECONDS]
//! ```
//!
//! Prints requests per second of whole answers, what one client alone waits for an answer, streamed
//! tokens per second, and what traces of 1 % of the requests cost: runs without and with them take
//! turns, each a process of its own, because a process decides once whether it traces.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

#[path = "../../cluster/tests/cluster/engines/scripted.rs"]
mod scripted;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, Ledger, Policy, StepDeadline,
    WeightsProgress,
};
use playhouse_gateway::{ChatTemplate, Gateway, GatewayConfig, Tokenizer, serve};
use playhouse_scheduler::Limits;
use playhouse_telemetry::{LogFormat, Metrics, TraceSettings, Traces, init_logs};
use playhouse_types::{BlockSize, TokenId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use scripted::{blueprints, engines, layout, no_fault};

const LIMITS: Limits = Limits {
    max_num_seqs: 256,
    max_num_batched_tokens: 8192,
    prefill_time: Duration::MAX,
    max_model_len: 4096,
    kv_blocks: 1 << 16,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

const TEMPLATE: &str = "{% for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + \
    message['content'] + '<|im_end|>' + '\\n' }}{%- endfor %}{{- '<|im_start|>assistant\\n' }}";

const CLIENTS: usize = 64;

/// Runs without and with traces.
const PAIRS: usize = 9;

/// Asks for one measurement.
const ONE_RUN: &str = "one-run";

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(5.0);
    let period = Duration::from_secs_f64(seconds);
    let traces = traces();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::args().any(|arg| arg == ONE_RUN) {
        return runtime.block_on(one_run(period));
    }
    runtime.block_on(async {
        whole_answers(period).await;
        streams(period).await;
    });
    drop(traces);
    tracing_cost(period);
}

/// Traces, if the environment asks for them.
fn traces() -> Option<Traces> {
    let settings = TraceSettings::read(None, |name| std::env::var(name).ok()).expect("settings");
    let traces = settings
        .map(|settings| Traces::start(settings, |_| Err("not here".to_owned())).expect("a thread"));
    init_logs("warn", LogFormat::Pretty, traces.as_ref()).expect("the first");
    traces
}

/// Prints requests per second, and per second of processor time, which other jobs touch less.
async fn one_run(period: Duration) {
    let address = start().await;
    let request = chat(r#""max_tokens":16"#);
    drop(gather(CLIENTS, period / 4, address, Arc::clone(&request)).await);
    let before = processor_seconds();
    let answers = gather(CLIENTS, period, address, request).await.len() as f64;
    println!("{} {}", answers / period.as_secs_f64(), answers / (processor_seconds() - before));
}

/// Returns the processor time of all threads of this process.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    // proc(5): fields 14 and 15, in hundredths of a second; the bracket closes field 2.
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// Requests without traces and with them, in turns, and the ratios of each pair.
fn tracing_cost(period: Duration) {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", collector.local_addr().expect("bound"));
    std::thread::spawn(move || collector.incoming().flatten().for_each(|it| drop(accept(&it))));
    let run = |traced: bool| -> Vec<f64> {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args([&period.as_secs_f64().to_string(), ONE_RUN]);
        if traced {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
            command.env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
            command.env("OTEL_TRACES_SAMPLER_ARG", "0.01");
        }
        let output = command.output().expect("a run");
        let rates = String::from_utf8_lossy(&output.stdout).into_owned();
        rates.split_whitespace().map(|rate| rate.parse().expect("a rate")).collect()
    };
    // The order within a pair alternates, too.
    let pairs: Vec<[Vec<f64>; 2]> = (0..PAIRS)
        .map(|pair| {
            let first = pair.is_multiple_of(2);
            let [one, other] = [first, !first].map(run);
            if first { [one, other] } else { [other, one] }
        })
        .collect();
    for (at, what) in ["requests/s", "requests per second of processor time"].iter().enumerate() {
        let mut ratios: Vec<f64> = pairs.iter().map(|[with, none]| with[at] / none[at]).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let (least, median, most) = (ratios[0], ratios[PAIRS / 2], ratios[PAIRS - 1]);
        println!(
            "1 % traced:      {median:.3} of the {what} of none ({least:.3} to {most:.3}, {PAIRS} pairs)"
        );
    }
}

/// Takes one message as a collector does.
fn accept(mut stream: &std::net::TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
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
    let template = Ok(Box::new(ChatTemplate::new(TEMPLATE.into()).expect("compiles")) as _);
    let metrics = Arc::new(Metrics::new("tiny"));
    let deployment = DeploymentConfig {
        desired: Desired { replicas: 1, layout: layout(1, 1) },
        blueprints: blueprints(engines(letter, no_fault()), LIMITS),
        limits: LIMITS,
        weights: WeightsProgress::default(),
        ledger: Arc::new(Ledger::in_memory()),
        control: None,
        devices: 1,
        step_deadline: StepDeadline::default(),
        policy: Policy::default(),
        admission: AdmissionLimits {
            requests: Capacity::Fixed(4096),
            prompt_tokens: 1 << 22,
            no_capacity_timeout: Duration::from_secs(60),
        },
        vocab: 288,
        shared_prompt_max: usize::MAX,
        metrics: Arc::clone(&metrics),
    };
    let cluster = Cluster::start(deployment).await.expect("the actors start");
    cluster.serving().await.expect("its replica serves");
    let door = cluster.front_door().clone();
    let gateway = Gateway::new(GatewayConfig::new("tiny"), door, tokenizer, template, metrics)
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
