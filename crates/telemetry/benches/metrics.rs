//! What `/metrics` costs with many replicas: every series there is, with values in all of them.
//!
//! ```text
//! cargo bench -p playhouse-telemetry [-- REPLICAS]
//! ```
//!
//! Prints how long one text takes to make and how large it is. The server adds a copy to the socket.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::hint::black_box;
use std::time::Instant;

use playhouse_telemetry::{Exposition, HttpLabels, Metrics, StatusClass};

const ROUNDS: usize = 200;

fn main() {
    let replicas = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(64);
    let metrics = used(replicas);
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            black_box(metrics.encode(Exposition::OpenMetrics));
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    let text = metrics.encode(Exposition::OpenMetrics);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let size = text.len() as f64 / 1024.0;
    let at = |part: f64| times[(times.len() as f64 * part) as usize];
    let (p50, p99) = (at(0.5), at(0.99));
    println!(
        "{replicas} replicas: {series} series, {size:.0} KiB, p50 {p50:.2} ms, p99 {p99:.2} ms"
    );
}

/// Metrics of a server that has served for a while.
fn used(replicas: u32) -> Metrics {
    let metrics = Metrics::new("a-model-with-a-name");
    for handler in ["/v1/chat/completions", "/v1/completions", "/metrics"] {
        let labels = HttpLabels { handler, method: "POST", status: StatusClass::of(200) };
        metrics.http_requests.get_or_create(&labels).inc();
    }
    for id in 0..replicas {
        let replica = metrics.replica(id);
        replica.has_blocks(16, 4096);
        for round in 1..1000 {
            let time = f64::from(round) * 1e-3;
            let histograms = [&replica.queue_time, &replica.prefill_time, &replica.decode_time];
            histograms.iter().for_each(|histogram| histogram.observe(time));
            replica.inference_time.observe(time);
            replica.iteration_tokens.observe(f64::from(round));
            replica.prefix_cache_queries.inc_by(16);
            replica.kv_cache_usage.set(time);
        }
    }
    metrics
}
