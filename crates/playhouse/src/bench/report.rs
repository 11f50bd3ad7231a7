//! From outcomes to numbers: vLLM's definitions, vLLM's table, vLLM's JSON keys (`benchmarks/serve.py`),
//! so that results of both can be compared.
//!
//! Tokens are counted without a tokenizer: by the server's `usage`, otherwise by events.

use serde_json::{Map, Value, json};

use super::load::{Outcome, Run};
use super::settings::{Metric, Objective, Settings};
use super::stats::Samples;

/// The result of a benchmark.
pub(super) struct Report {
    /// The key and the value of every number, as in the JSON; `null` for a latency that no request had.
    pub(super) numbers: Map<String, Value>,
    table: String,
}

/// The totals of a run in the table.
struct Totals {
    completed: usize,
    failed: usize,
    input_tokens: u64,
    output_tokens: u64,
    good: usize,
    peak_tokens_per_s: f64,
    peak_concurrency: usize,
}

/// Width of the table.
const WIDTH: usize = 50;

// === impl Report ===

impl Report {
    /// Returns the report of a run.
    pub(super) fn new(settings: &Settings, run: &Run) -> Self {
        let mut report = Self { numbers: Map::new(), table: String::new() };
        report.heading('=', " Serving Benchmark Result ");
        report.totals(settings, &Totals::new(settings, &run.outcomes), run);
        let completed: Vec<&Outcome> =
            run.outcomes.iter().filter(|outcome| outcome.error.is_none()).collect();
        let asked = settings.metrics();
        for metric in METRICS {
            if asked.contains(&metric) && is_measured(metric, settings) {
                let samples = samples(metric, &completed);
                report.latency(metric, samples.as_ref(), &settings.metric_percentiles);
            }
        }
        report.heading('=', "");
        report
    }

    /// Returns the table, as vLLM prints it.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    fn heading(&mut self, fill: char, title: &str) {
        let title = match fill {
            '=' => format!("{title:=^WIDTH$}"),
            _ => format!("{title:-^WIDTH$}"),
        };
        self.table.push_str(&title);
        self.table.push('\n');
    }

    fn count(&mut self, label: &str, count: u64) {
        self.table.push_str(&format!("{label:<40} {count:<10}\n"));
    }

    fn decimal(&mut self, label: &str, value: f64) {
        self.table.push_str(&format!("{label:<40} {value:<10.2}\n"));
    }

    fn number(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.numbers.insert(key.into(), value.into());
    }

    fn totals(&mut self, settings: &Settings, totals: &Totals, run: &Run) {
        let seconds = run.seconds;
        let all_tokens = totals.input_tokens + totals.output_tokens;
        let requests_per_s = totals.completed as f64 / seconds;
        let good_per_s = totals.good as f64 / seconds;
        let output_per_s = totals.output_tokens as f64 / seconds;
        let tokens_per_s = all_tokens as f64 / seconds;
        // The last second may be only a part of one, and be the only one.
        let peak_tokens_per_s = totals.peak_tokens_per_s.max(output_per_s);

        self.count("Successful requests:", totals.completed as u64);
        self.count("Failed requests:", totals.failed as u64);
        if let Some(interrupted) = run.interrupted {
            self.count("Interrupted requests:", interrupted as u64);
            self.number("interrupted", interrupted);
        }
        if let Some(max) = settings.max_concurrency {
            self.count("Maximum request concurrency:", max as u64);
        }
        if settings.request_rate.is_finite() {
            self.decimal("Request rate configured (RPS):", settings.request_rate);
        }
        self.decimal("Benchmark duration (s):", seconds);
        self.count("Total input tokens:", totals.input_tokens);
        self.count("Total generated tokens:", totals.output_tokens);
        self.decimal("Request throughput (req/s):", requests_per_s);
        if !settings.goodput.is_empty() {
            self.decimal("Request goodput (req/s):", good_per_s);
        }
        self.decimal("Output token throughput (tok/s):", output_per_s);
        self.decimal("Peak output token throughput (tok/s):", peak_tokens_per_s);
        self.decimal("Peak concurrent requests:", totals.peak_concurrency as f64);
        self.decimal("Total token throughput (tok/s):", tokens_per_s);

        self.number("duration", seconds);
        self.number("completed", totals.completed);
        self.number("failed", totals.failed);
        self.number("total_input_tokens", totals.input_tokens);
        self.number("total_output_tokens", totals.output_tokens);
        self.number("request_throughput", requests_per_s);
        if !settings.goodput.is_empty() {
            self.number("request_goodput", good_per_s);
        }
        self.number("output_throughput", output_per_s);
        self.number("total_token_throughput", tokens_per_s);
        self.number("max_output_tokens_per_s", peak_tokens_per_s);
        self.number("max_concurrent_requests", totals.peak_concurrency);
    }

    /// Adds a latency, of which there are no numbers if no request had it.
    fn latency(&mut self, metric: Metric, seconds: Option<&Samples>, percentiles: &[f64]) {
        let (short, long) = names(metric);
        let key = metric.key();
        let ms = |of: &dyn Fn(&Samples) -> f64| seconds.map(|seconds| of(seconds) * 1e3);
        let (mean, median) = (ms(&Samples::mean), ms(&|it| it.percentile(50.0)));
        self.heading('-', long);
        self.milliseconds(&format!("Mean {short} (ms):"), mean);
        self.milliseconds(&format!("Median {short} (ms):"), median);
        self.number(format!("mean_{key}_ms"), mean);
        self.number(format!("median_{key}_ms"), median);
        self.number(format!("std_{key}_ms"), ms(&Samples::std));
        for p in percentiles {
            let value = ms(&|it| it.percentile(*p));
            self.milliseconds(&format!("P{p} {short} (ms):"), value);
            self.number(format!("p{p}_{key}_ms"), value);
        }
    }

    fn milliseconds(&mut self, label: &str, value: Option<f64>) {
        match value {
            Some(value) => self.decimal(label, value),
            None => self.table.push_str(&format!("{label:<40} {:<10}\n", "-")),
        }
    }
}

/// The latencies, in the order of the table.
const METRICS: [Metric; 6] = [
    Metric::Ttft,
    Metric::Tpot,
    Metric::Itl,
    Metric::E2el,
    Metric::ClientQueueTime,
    Metric::E2elIncludingClientQueue,
];

/// Returns the short and the long name of a latency, as in vLLM's table.
fn names(metric: Metric) -> (&'static str, &'static str) {
    match metric {
        Metric::Ttft => ("TTFT", "Time to First Token"),
        Metric::Tpot => ("TPOT", "Time per Output Token (excl. 1st token)"),
        Metric::Itl => ("ITL", "Inter-token Latency"),
        Metric::E2el => ("E2EL", "End-to-end Latency"),
        Metric::ClientQueueTime => ("Client Queue Time", "Client-side Queueing"),
        Metric::E2elIncludingClientQueue => {
            ("E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency")
        }
    }
}

/// Returns whether a latency is measured. As in vLLM, there is a queue at the client only where
/// concurrency is limited, and waiting in it is part of a latency only where requests have a time at
/// which they are due.
fn is_measured(metric: Metric, settings: &Settings) -> bool {
    let limited = settings.max_concurrency.is_some();
    match metric {
        Metric::Ttft | Metric::Tpot | Metric::Itl | Metric::E2el => true,
        Metric::ClientQueueTime => limited,
        Metric::E2elIncludingClientQueue => limited && settings.request_rate.is_finite(),
    }
}

fn samples(metric: Metric, completed: &[&Outcome]) -> Option<Samples> {
    match metric {
        Metric::Itl => {
            let itls = completed.iter().flat_map(|outcome| &outcome.itls);
            Samples::new(itls.map(|&seconds| f64::from(seconds)))
        }
        _ => Samples::new(completed.iter().filter_map(|outcome| outcome.seconds(metric))),
    }
}

impl Outcome {
    /// Returns a latency of the whole request, in seconds; `None` where it has no meaning.
    fn seconds(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Ttft => Some(self.ttft),
            Metric::Tpot if self.output_tokens > 1 => {
                Some((self.latency - self.ttft) / (self.output_tokens - 1) as f64)
            }
            Metric::Tpot | Metric::Itl => None,
            Metric::E2el => Some(self.latency),
            Metric::ClientQueueTime => Some(self.queue_time),
            Metric::E2elIncludingClientQueue => Some(self.queue_time + self.latency),
        }
    }

    /// Returns whether the request meets an objective. A single token has no time per token after the
    /// first, which meets every objective.
    fn meets(&self, objective: &Objective) -> bool {
        self.seconds(objective.metric).unwrap_or(0.0) * 1e3 <= objective.ms_max
    }
}

// === impl Totals ===

impl Totals {
    fn new(settings: &Settings, outcomes: &[Outcome]) -> Self {
        let completed: Vec<&Outcome> =
            outcomes.iter().filter(|outcome| outcome.error.is_none()).collect();
        let is_good =
            |outcome: &&&Outcome| settings.goodput.iter().all(|objective| outcome.meets(objective));
        Self {
            completed: completed.len(),
            failed: outcomes.len() - completed.len(),
            input_tokens: completed.iter().map(|outcome| outcome.prompt_tokens).sum(),
            output_tokens: completed.iter().map(|outcome| outcome.output_tokens).sum(),
            good: completed.iter().filter(is_good).count(),
            peak_tokens_per_s: peak_tokens_per_s(&completed, settings.no_stream),
            peak_concurrency: peak_concurrency(&completed),
        }
    }
}

/// Returns the maximum number of tokens in one second, counting seconds from the first request sent. An
/// event is one token, as in vLLM; an answer that is not streamed brings all its tokens at its end.
fn peak_tokens_per_s(completed: &[&Outcome], whole: bool) -> f64 {
    let first = completed.iter().map(|outcome| outcome.start).fold(f64::INFINITY, f64::min);
    let last = completed.iter().map(|outcome| outcome.end()).fold(0.0, f64::max);
    if completed.is_empty() {
        return 0.0;
    }
    let mut seconds = vec![0_u64; (last - first).max(0.0) as usize + 1];
    let mut add = |at: f64, tokens: u64| {
        let second = (at - first) as usize;
        let final_second = seconds.len() - 1;
        // Sums of rounded gaps may exceed the end slightly.
        seconds[second.min(final_second)] += tokens;
    };
    for outcome in completed {
        if whole {
            add(outcome.end(), outcome.output_tokens);
            continue;
        }
        let mut at = outcome.start + outcome.ttft;
        add(at, 1);
        for itl in &outcome.itls {
            at += f64::from(*itl);
            add(at, 1);
        }
    }
    seconds.into_iter().max().unwrap_or_default() as f64
}

/// Returns the maximum number of concurrent requests. A request that starts when another ends does not
/// overlap it.
fn peak_concurrency(completed: &[&Outcome]) -> usize {
    let mut changes: Vec<(f64, i64)> = Vec::with_capacity(completed.len() * 2);
    for outcome in completed {
        changes.extend([(outcome.start, 1), (outcome.end(), -1)]);
    }
    changes.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let running = changes.iter().scan(0, |running, change| {
        *running += change.1;
        Some(*running)
    });
    usize::try_from(running.max().unwrap_or_default()).unwrap_or_default()
}

/// Returns the JSON that `--save-result` writes: the settings of the run, then its numbers, then with
/// `--save-detailed` each request.
pub(super) fn to_json(
    settings: &Settings,
    model: &str,
    date: &str,
    report: &Report,
    outcomes: &[Outcome],
) -> Value {
    let rate = settings.request_rate;
    let mut json = json!({
        "date": date,
        "endpoint_type": settings.endpoint.backend(),
        "backend": settings.endpoint.backend(),
        "label": null,
        "model_id": model,
        "tokenizer_id": null,
        "num_prompts": settings.num_prompts,
        "request_rate": if rate.is_finite() { json!(rate) } else { json!("inf") },
        "burstiness": if settings.burstiness.is_finite() { json!(settings.burstiness) } else { json!("inf") },
        "max_concurrency": settings.max_concurrency,
    });
    let object = json.as_object_mut().expect("made as an object");
    // As in vLLM, the key is there also if no goodput was asked for.
    object.insert("request_goodput".to_owned(), Value::Null);
    object.extend(report.numbers.clone());
    object.insert("latencies".to_owned(), each(outcomes, |outcome| outcome.latency));
    object.insert("queue_times".to_owned(), each(outcomes, |outcome| outcome.queue_time));
    if settings.save_detailed {
        let detailed = json!({
            "input_lens": each(outcomes, |outcome| outcome.prompt_tokens),
            "output_lens": each(outcomes, |outcome| outcome.output_tokens),
            "start_times": each(outcomes, |outcome| outcome.start),
            "ttfts": each(outcomes, |outcome| outcome.ttft),
            "itls": each(outcomes, |outcome| outcome.itls.clone()),
            "generated_texts": each(outcomes, |outcome| outcome.text.clone()),
            "errors": each(outcomes, |outcome| outcome.error.clone().unwrap_or_default()),
        });
        object.extend(detailed.as_object().expect("made as an object").clone());
    }
    json
}

fn each<T: Into<Value>>(outcomes: &[Outcome], part: impl Fn(&Outcome) -> T) -> Value {
    outcomes.iter().map(|outcome| part(outcome).into()).collect()
}

#[cfg(test)]
mod tests;
