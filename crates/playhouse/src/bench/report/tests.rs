use std::collections::BTreeSet;

use super::*;

fn run(outcomes: Vec<Outcome>) -> Run {
    Run { outcomes, seconds: 2.0, interrupted: None }
}

/// Three answers of 2, 3 and 1 tokens, and a failure.
fn outcomes() -> Vec<Outcome> {
    let answer = |start, ttft, itls: &[f32], queue_time| Outcome {
        start,
        queue_time,
        ttft,
        latency: ttft + itls.iter().map(|&itl| f64::from(itl)).sum::<f64>(),
        itls: itls.to_vec(),
        prompt_tokens: 10,
        output_tokens: 1 + itls.len() as u64,
        text: "text".to_owned(),
        error: None,
    };
    let failed = Outcome { error: Some("429: busy".to_owned()), ..Outcome::default() };
    vec![
        answer(0.0, 0.25, &[0.5], 0.0),
        answer(0.5, 0.5, &[0.25, 0.5], 0.25),
        failed,
        answer(1.75, 0.125, &[], 1.0),
    ]
}

#[test]
fn the_table_is_that_of_vllm() {
    let settings = Settings::of_flags(&[
        "--max-concurrency",
        "2",
        "--request-rate",
        "4",
        "--goodput",
        "ttft:300",
        "tpot:500",
        "--percentile-metrics",
        "ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue",
        "--metric-percentiles",
        "50,99.9",
    ]);
    let report = Report::new(&settings, &run(outcomes()));
    let lines: Vec<&str> = report.table().lines().map(str::trim_end).collect();
    assert_eq!(
        lines.join("\n"),
        "\
============ Serving Benchmark Result ============
Successful requests:                     3
Failed requests:                         1
Maximum request concurrency:             2
Request rate configured (RPS):           4.00
Benchmark duration (s):                  2.00
Total input tokens:                      30
Total generated tokens:                  6
Request throughput (req/s):              1.50
Request goodput (req/s):                 1.00
Output token throughput (tok/s):         3.00
Peak output token throughput (tok/s):    4.00
Peak concurrent requests:                2.00
Total token throughput (tok/s):          18.00
---------------Time to First Token----------------
Mean TTFT (ms):                          291.67
Median TTFT (ms):                        250.00
P50 TTFT (ms):                           250.00
P99.9 TTFT (ms):                         499.50
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          437.50
Median TPOT (ms):                        437.50
P50 TPOT (ms):                           437.50
P99.9 TPOT (ms):                         499.88
---------------Inter-token Latency----------------
Mean ITL (ms):                           416.67
Median ITL (ms):                         500.00
P50 ITL (ms):                            500.00
P99.9 ITL (ms):                          500.00
----------------End-to-end Latency----------------
Mean E2EL (ms):                          708.33
Median E2EL (ms):                        750.00
P50 E2EL (ms):                           750.00
P99.9 E2EL (ms):                         1249.00
---------------Client-side Queueing---------------
Mean Client Queue Time (ms):             416.67
Median Client Queue Time (ms):           250.00
P50 Client Queue Time (ms):              250.00
P99.9 Client Queue Time (ms):            998.50
--------Queue-inclusive End-to-end Latency--------
Mean E2EL incl. Client Queue (ms):       1125.00
Median E2EL incl. Client Queue (ms):     1125.00
P50 E2EL incl. Client Queue (ms):        1125.00
P99.9 E2EL incl. Client Queue (ms):      1499.25
=================================================="
    );
    // vLLM pads values to ten characters.
    assert!(report.table().contains("Failed requests:                         1         \n"));
}

#[test]
fn the_json_has_the_keys_of_vllm() {
    let settings =
        Settings::of_flags(&["--save-detailed", "--percentile-metrics", "ttft,tpot,itl,e2el"]);
    let run = run(outcomes());
    let report = Report::new(&settings, &run);
    let json = to_json(&settings, "demo", "20260101-000000", &report, &run.outcomes);
    let keys: BTreeSet<&str> =
        json.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = BTreeSet::from([
        "date",
        "endpoint_type",
        "backend",
        "label",
        "model_id",
        "tokenizer_id",
        "num_prompts",
        "request_rate",
        "burstiness",
        "max_concurrency",
        "duration",
        "completed",
        "failed",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
        "input_lens",
        "output_lens",
        "ttfts",
        "itls",
        "latencies",
        "start_times",
        "queue_times",
        "generated_texts",
        "errors",
    ]);
    let latencies: Vec<String> = ["ttft", "tpot", "itl", "e2el"]
        .iter()
        .flat_map(|metric| ["mean", "median", "std", "p99"].map(|of| format!("{of}_{metric}_ms")))
        .collect();
    expected.extend(latencies.iter().map(String::as_str));
    assert_eq!(keys, expected);
    assert_eq!(json["request_rate"], "inf");
    assert_eq!(json["request_goodput"], Value::Null);
    assert_eq!(json["completed"], 3);
    assert_eq!(json["output_lens"], json!([2, 3, 0, 1]));
    assert_eq!(json["itls"], json!([[0.5], [0.25, 0.5], [], []]));
    assert_eq!(json["errors"], json!(["", "", "429: busy", ""]));
}

#[test]
fn only_detailed_results_have_each_request() {
    let settings = Settings::of_flags(&[]);
    let report = Report::new(&settings, &run(outcomes()));
    let json = to_json(&settings, "demo", "", &report, &outcomes());
    for key in ["input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors"] {
        assert!(json.get(key).is_none(), "{key}");
    }
}

#[test]
fn a_run_without_success_has_no_latencies() {
    let settings = Settings::of_flags(&["--goodput", "ttft:1"]);
    let failed = vec![Outcome { error: Some("refused".to_owned()), ..Outcome::default() }; 2];
    let report = Report::new(&settings, &run(failed));
    assert_eq!((&report.numbers["completed"], &report.numbers["failed"]), (&json!(0), &json!(2)));
    for (key, number) in &report.numbers {
        match &**key {
            "failed" | "duration" => {}
            latency if latency.ends_with("_ms") => assert_eq!(number, &Value::Null, "{key}"),
            _ => assert_eq!(number.as_f64(), Some(0.0), "{key}"),
        }
    }
    assert!(report.table().contains("Mean TTFT (ms):                          -         \n"));
    assert!(report.table().contains("P99 ITL (ms):                            -         \n"));
}

/// An answer of one token has a time to it, and none between tokens.
#[test]
fn a_latency_that_no_answer_has_is_not_a_zero() {
    let one = Outcome { ttft: 0.5, latency: 0.5, output_tokens: 1, ..Outcome::default() };
    let report = Report::new(&Settings::of_flags(&[]), &run(vec![one]));
    assert_eq!(report.numbers["mean_ttft_ms"], json!(500.0));
    assert_eq!(report.numbers["mean_tpot_ms"], Value::Null);
    assert_eq!(report.numbers["std_itl_ms"], Value::Null);
}

#[test]
fn the_peak_is_no_less_than_the_mean() {
    let itls = vec![0.25; 5];
    let outcome =
        Outcome { ttft: 0.1, latency: 1.35, itls, output_tokens: 6, ..Outcome::default() };
    let short = Run { outcomes: vec![outcome; 8], seconds: 1.35, interrupted: None };
    let report = Report::new(&Settings::of_flags(&[]), &short);
    let number = |key: &str| report.numbers[key].as_f64().expect("a number");
    // Four tokens of each answer fall into the first second, and two into the rest of 0.35 s.
    assert!(number("output_throughput") > 32.0);
    assert_eq!(number("max_output_tokens_per_s"), number("output_throughput"));
}

/// **B-5**
#[test]
fn an_interrupted_run_counts_what_it_cut_off() {
    let cut = Run { interrupted: Some(3), ..run(outcomes()) };
    let report = Report::new(&Settings::of_flags(&[]), &cut);
    assert!(report.table().contains("Interrupted requests:                    3         \n"));
    assert_eq!(
        (&report.numbers["interrupted"], &report.numbers["completed"]),
        (&json!(3), &json!(3))
    );
}

#[test]
fn whole_answers_bring_their_tokens_at_their_end() {
    let answer = |start, latency, output_tokens| Outcome {
        start,
        latency,
        output_tokens,
        ..Outcome::default()
    };
    let outcomes = [answer(0.0, 0.9, 5), answer(0.0, 1.5, 7), answer(0.5, 0.75, 8)];
    let report = Report::new(&Settings::of_flags(&["--no-stream"]), &run(outcomes.to_vec()));
    assert_eq!(report.numbers["max_output_tokens_per_s"], json!(15.0));
    assert_eq!(report.numbers["max_concurrent_requests"], json!(3));
}

#[test]
fn requests_that_follow_each_other_do_not_overlap() {
    let answer = |start, latency| Outcome { start, latency, ..Outcome::default() };
    let outcomes = [answer(0.0, 1.0), answer(1.0, 1.0), answer(2.0, 0.5)];
    let completed: Vec<&Outcome> = outcomes.iter().collect();
    assert_eq!(peak_concurrency(&completed), 1);
}
