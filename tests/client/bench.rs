use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ports::port;
use crate::server::{Reply, Server, chat_event, ending, text_event};
use crate::{Finished, Folder, playhouse, run};

fn bench(server: &Server, args: &[&str]) -> Finished {
    let url = server.url();
    let common = ["bench", "--base-url", &url, "--random-input-len", "4"];
    run(&[&common[..], args].concat())
}

/// As [`bench`], with the detailed JSON.
fn bench_json(server: &Server, args: &[&str]) -> (Finished, Value) {
    let folder = Folder::new();
    let save = ["--save-result", "--save-detailed", "--result-filename", "result.json"];
    let place = ["--result-dir", folder.path()];
    let finished = bench(server, &[args, &save, &place].concat());
    let json = std::fs::read(folder.0.join("result.json")).expect("a result was written");
    (finished, serde_json::from_slice(&json).expect("the result is JSON"))
}

/// A completion of three tokens and some things that are to be ignored.
fn three_tokens() -> String {
    let tokens =
        [text_event("a"), ": ping\r\n\r\n".to_owned(), text_event("\u{1f600}"), text_event("")];
    format!("{}{}", tokens.concat().replace("\n\n", "\r\n\r\n"), ending(11, 3))
}

fn total(json: &Value, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("{key} is {}", json[key]))
}

#[test]
fn streams_in_awkward_pieces_are_counted_exactly() {
    let server = Server::start(|_| Reply::crumbs(three_tokens()));
    let (finished, json) = bench_json(&server, &["--num-prompts", "20", "--max-concurrency", "4"]);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.stdout.starts_with("============ Serving Benchmark Result ============\n"));
    assert!(finished.stdout.contains("Successful requests:                     20        \n"));
    assert!(finished.stdout.contains("Maximum request concurrency:             4         \n"));
    assert_eq!((total(&json, "completed"), total(&json, "failed")), (20.0, 0.0));
    assert_eq!(
        (total(&json, "total_input_tokens"), total(&json, "total_output_tokens")),
        (220.0, 60.0)
    );
    for key in ["mean_ttft_ms", "median_tpot_ms", "p99_itl_ms"] {
        assert!(total(&json, key) > 0.0, "{key}");
    }
    let itls = json["itls"].as_array().expect("a list");
    assert!(itls.iter().all(|of_one| of_one.as_array().is_some_and(|gaps| gaps.len() == 2)));
    assert_eq!(json["generated_texts"][7], "a\u{1f600}");
    assert_eq!(json["model_id"], "demo");
}

#[test]
fn requests_say_what_was_asked_for() {
    let server = Server::start(|_| Reply::crumbs(three_tokens()));
    let args = [
        "--num-prompts",
        "6",
        "--random-output-len",
        "9",
        "--temperature",
        "0",
        "--api-key",
        "k-1",
    ];
    assert_eq!(bench(&server, &args).code, 0);
    for request in server.requests() {
        assert_eq!(request.path, "/v1/completions");
        assert_eq!(request.authorization.as_deref(), Some("Bearer k-1"));
        let prompt = request.body["prompt"].as_array().expect("token ids").clone();
        let ids: Vec<u64> = prompt.iter().map(|id| id.as_u64().expect("an id")).collect();
        assert!(ids.len() == 4 && ids.iter().all(|id| (3..1000).contains(id)), "{ids:?}");
        let mut rest = request.body;
        rest.as_object_mut().expect("an object").remove("prompt");
        let expected = json!({
            "model": "demo", "max_tokens": 9, "stream": true, "ignore_eos": true,
            "stream_options": {"include_usage": true}, "temperature": 0.0,
        });
        assert_eq!(rest, expected);
    }
}

/// B-4
#[test]
fn a_seed_sends_the_same_requests_again() {
    let bodies = |seed: &str| {
        let server = Server::start(|_| Reply::crumbs(three_tokens()));
        let args = ["--num-prompts", "8", "--max-concurrency", "1", "--random-range-ratio", "0.5"];
        let more = ["--random-prefix-len", "5", "--seed", seed];
        assert_eq!(bench(&server, &[&args[..], &more].concat()).code, 0);
        server.requests().into_iter().map(|request| request.body).collect::<Vec<_>>()
    };
    let first = bodies("1");
    assert_eq!(first, bodies("1"));
    assert_ne!(first, bodies("2"));
    let prefixes: BTreeSet<String> = first
        .iter()
        .map(|body| format!("{:?}", &body["prompt"].as_array().expect("token ids")[..5]))
        .collect();
    assert_eq!(prefixes.len(), 1, "all prompts begin alike");
}

#[test]
fn chat_answers_are_loaded_too() {
    let server = Server::start(|_| {
        let opening = json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]});
        let text = format!("data: {opening}\n\n{}{}", chat_event("Hi"), ending(7, 1));
        Reply::crumbs(text)
    });
    let args = ["--endpoint", "/v1/chat/completions", "--num-prompts", "3"];
    let (finished, json) = bench_json(&server, &args);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(json["itls"], json!([[], [], []]), "the opening event is not a token");
    assert_eq!(json["backend"], "openai-chat");
    let body = &server.requests()[0].body;
    assert_eq!(body["messages"][0]["role"], "user");
    let words = body["messages"][0]["content"].as_str().expect("text");
    assert_eq!(words.split(' ').count(), 4);
    assert_eq!(body["max_completion_tokens"], 128);
}

#[test]
fn whole_answers_are_timed_as_a_whole() {
    let server = Server::start(|_| {
        let usage = json!({"prompt_tokens": 4, "completion_tokens": 16});
        Reply::Whole(200, json!({"choices": [{"text": "x"}], "usage": usage}))
    });
    let (finished, json) = bench_json(&server, &["--num-prompts", "5", "--no-stream"]);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(total(&json, "total_output_tokens"), 80.0);
    assert!(total(&json, "mean_e2el_ms") > 0.0);
    assert!(json.get("mean_ttft_ms").is_none());
    assert!(!finished.stdout.contains("Time to First Token"));
    let body = &server.requests()[0].body;
    assert_eq!((&body["stream"], body.get("stream_options")), (&json!(false), None));
}

/// B-2
#[test]
fn an_open_load_does_not_wait_for_answers() {
    let (arrived, all_here) = watch::channel(0);
    let arrived = Arc::new(arrived);
    let server = Server::start(move |_| {
        arrived.send_modify(|count| *count += 1);
        let mut all_here = all_here.clone();
        Reply::stream(|answer| async move {
            all_here.wait_for(|count| *count == 12).await.expect("the server lives");
            answer.send(three_tokens().as_bytes()).await;
        })
    });
    let args = ["--num-prompts", "12", "--request-rate", "200", "--request-timeout", "60"];
    let (finished, json) = bench_json(&server, &args);
    assert_eq!((finished.code, total(&json, "completed")), (0, 12.0), "{}", finished.stderr);
    assert_eq!(total(&json, "max_concurrent_requests"), 12.0);
    assert!(finished.stdout.contains("Request rate configured (RPS):           200.00    \n"));
    // The last request is due after 12 / 200 s.
    assert!(total(&json, "duration") >= 0.06);
}

#[test]
fn a_closed_load_keeps_its_places_filled_and_no_more() {
    const PLACES: usize = 3;
    let running = Arc::new(watch::channel((0, 0)).0);
    let seen = Arc::clone(&running);
    let server = Server::start(move |request| {
        let running = Arc::clone(&seen);
        Reply::stream(move |answer| async move {
            running.send_modify(|(now, most)| {
                *now += 1;
                *most = (*most).max(*now);
            });
            if request.number < PLACES {
                let mut full = running.subscribe();
                full.wait_for(|(_, most)| *most >= PLACES).await.expect("the server lives");
            }
            // Out before the last byte: the client sends the next request when it has that.
            running.send_modify(|(now, _)| *now -= 1);
            answer.send(three_tokens().as_bytes()).await;
        })
    });
    let (finished, json) = bench_json(&server, &["--num-prompts", "30", "--max-concurrency", "3"]);
    assert_eq!((finished.code, total(&json, "completed")), (0, 30.0), "{}", finished.stderr);
    assert_eq!(running.borrow().1, PLACES);
    assert_eq!(total(&json, "max_concurrent_requests"), 3.0);
}

#[test]
fn waiting_for_a_place_is_told_apart() {
    let server = Server::start(|_| Reply::crumbs(three_tokens()));
    let metrics = "e2el,client_queue_time,e2el_including_client_queue";
    let args = ["--num-prompts", "40", "--request-rate", "100000", "--max-concurrency", "1"];
    let args = [&args[..], &["--percentile-metrics", metrics]].concat();
    let (finished, json) = bench_json(&server, &args);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.stdout.contains("---------------Client-side Queueing---------------\n"));
    // All are due within a millisecond and run one after the other, so the last waits for the rest.
    let list = |key: &str| -> Vec<f64> {
        let numbers = json[key].as_array().expect("a list").iter();
        numbers.map(|number| number.as_f64().expect("a number")).collect()
    };
    let (queue, latency) = (list("queue_times"), list("latencies"));
    let before_last: f64 = latency[..39].iter().sum();
    assert!(queue[39] + 0.001 > before_last, "{} after {before_last}", queue[39]);
    let with_queue = total(&json, "mean_e2el_including_client_queue_ms");
    let sum = total(&json, "mean_e2el_ms") + total(&json, "mean_client_queue_time_ms");
    assert!((with_queue - sum).abs() < 1e-6);
}

/// B-3
#[test]
fn failures_are_counted_and_told_by_kind() {
    let server = Server::start(|request| match request.number % 6 {
        0 => Reply::crumbs(three_tokens()),
        1 => Reply::Whole(429, json!({"error": {"message": "too many requests in flight"}})),
        2 => Reply::Whole(500, json!({"error": {"message": "the engine died"}})),
        3 => Reply::Close,
        4 => Reply::stream(|answer| async move {
            answer.send(text_event("a").as_bytes()).await;
            answer.break_off().await;
        }),
        _ => Reply::crumbs(format!(
            "{}data: {{\"error\":{{\"message\":\"evicted\"}}}}\n\n",
            text_event("a")
        )),
    });
    let (finished, json) = bench_json(&server, &["--num-prompts", "18", "--max-concurrency", "1"]);
    assert_eq!(finished.code, 0, "some succeeded");
    assert_eq!((total(&json, "completed"), total(&json, "failed")), (3.0, 15.0));
    for told in [
        "failed: 3 x 429 Too Many Requests: too many requests in flight\n",
        "failed: 3 x 500 Internal Server Error: the engine died\n",
        "failed: 3 x the server broke off: evicted\n",
    ] {
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
    }
    assert!(finished.stdout.contains("Failed requests:                         15        \n"));
    assert_eq!(json["output_lens"].as_array().map(Vec::len), Some(18));
    assert_eq!(total(&json, "total_output_tokens"), 9.0);
}

#[test]
fn a_stream_without_its_end_has_failed() {
    let server = Server::start(|_| Reply::crumbs(text_event("a")));
    let finished = bench(&server, &["--num-prompts", "2"]);
    assert_eq!(finished.code, 1);
    assert!(
        finished
            .stderr
            .contains("failed: 2 x the server broke off: the stream ended without [DONE]\n")
    );
}

#[test]
fn answers_that_are_not_of_the_api_have_failed() {
    for (answer, why) in [
        ("data: {not json}\n\n", "is not an OpenAI answer: key must be"),
        ("data: [DONE]\n\n", "the stream has no token"),
        ("<html>", "the stream has no token"),
    ] {
        let server = Server::start(|_| Reply::crumbs(answer.to_owned()));
        let finished = bench(&server, &["--num-prompts", "1"]);
        assert_eq!(finished.code, 1);
        assert!(finished.stderr.contains(why), "{}", finished.stderr);
    }
}

#[test]
fn a_request_that_takes_too_long_has_failed() {
    let server = Server::start(|_| {
        Reply::stream(|answer| async move {
            answer.send(text_event("a").as_bytes()).await;
            answer.abandoned().await;
        })
    });
    let finished = bench(&server, &["--num-prompts", "3", "--request-timeout", "1"]);
    assert_eq!(finished.code, 1);
    assert!(finished.stdout.contains("Failed requests:                         3         \n"));
    assert!(finished.stderr.contains(" x waited 1 s for the "), "{}", finished.stderr);
}

/// **B-5**
#[test]
fn an_interrupted_run_reports_what_has_ended() {
    let (arrived, mut third) = watch::channel(0);
    let server = Server::start(move |request| {
        arrived.send_modify(|count| *count += 1);
        match request.number {
            0 | 1 => Reply::crumbs(three_tokens()),
            _ => Reply::stream(|answer| async move {
                answer.send(text_event("a").as_bytes()).await;
                answer.abandoned().await;
            }),
        }
    });
    let (folder, url) = (Folder::new(), server.url());
    let scenario = folder.write("scenario.toml", "[thresholds]\nmax_failed = 0\n");
    let args = ["bench", "--base-url", &url, "--num-prompts", "9", "--max-concurrency", "1"];
    let save = ["--save-result", "--result-filename", "result.json", "--result-dir", folder.path()];
    let mut command = playhouse(&[&args[..], &save, &["--scenario", &scenario]].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    server.wait(third.wait_for(|count| *count == 3)).expect("the server lives");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).expect("the process can be signalled");
    let finished = Finished::from(child.wait_with_output().expect("it ends"));
    assert_eq!(finished.code, 130, "{}", finished.stderr);
    for line in ["Successful requests:  ", "Interrupted requests:  "] {
        assert!(finished.stdout.contains(line), "{}", finished.stdout);
    }
    assert!(!finished.stdout.contains("max_failed"), "not judged: {}", finished.stdout);
    let told = "error: stopped by SIGINT when 2 of 9 requests had ended\n";
    assert!(finished.stderr.ends_with(told), "{}", finished.stderr);
    assert!(finished.stderr.contains("bench: 22 % (2/9 requests"), "{}", finished.stderr);
    let json = std::fs::read(folder.0.join("result.json")).expect("a result was written");
    let json: Value = serde_json::from_slice(&json).expect("the result is JSON");
    let counts = ["completed", "failed", "interrupted"].map(|key| total(&json, key));
    assert_eq!(counts, [2.0, 0.0, 1.0]);
}

/// C-1
#[test]
fn connections_are_used_again() {
    let server = Server::start(|request| match request.number % 3 {
        0 => Reply::Whole(429, json!({"error": {"message": "busy"}})),
        _ => Reply::crumbs(three_tokens()),
    });
    assert_eq!(bench(&server, &["--num-prompts", "30", "--max-concurrency", "1"]).code, 0);
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_scenario_decides_by_its_thresholds() {
    let server = Server::start(|_| Reply::crumbs(three_tokens()));
    let folder = Folder::new();
    let scenario = |thresholds: &str| {
        let text = format!("num_prompts = 4\nno_progress = true\n[thresholds]\n{thresholds}");
        folder.write("scenario.toml", text)
    };
    let met = bench(&server, &["--scenario", &scenario("max_failed = 0\nmin_completed = 4")]);
    assert_eq!(met.code, 0, "{}", met.stderr);
    assert!(met.stdout.contains("ok   min_completed"), "{}", met.stdout);
    let missed = bench(&server, &["--scenario", &scenario("max_p99_ttft_ms = 0.000001")]);
    assert_eq!(missed.code, 1);
    assert!(missed.stdout.contains("FAIL max_p99_ttft_ms"), "{}", missed.stdout);

    let before = server.requests().len();
    let wrong = bench(&server, &["--scenario", &scenario("max_p95_ttft_ms = 1")]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("the result has no number p95_ttft_ms"), "{}", wrong.stderr);
    assert_eq!(server.requests().len(), before, "refused before the run");

    let stronger = bench(&server, &["--scenario", &scenario(""), "--num-prompts", "2"]);
    assert!(stronger.stdout.contains("Successful requests:                     2         \n"));
}

#[test]
fn prompts_of_a_file_are_sent_in_order_and_again() {
    let server = Server::start(|_| Reply::crumbs(three_tokens()));
    let folder = Folder::new();
    let lines = "{\"prompt\": \"one\", \"output_len\": 5}\n\n{\"prompt\": \"two\", \"output_tokens\": 6}\n{\"prompt\": \"three\", \"id\": 9}";
    let path = folder.write("prompts.jsonl", lines);
    let args = [
        "--dataset-name",
        "prompts",
        "--dataset-path",
        &path,
        "--num-prompts",
        "4",
        "--max-concurrency",
        "1",
    ];
    let finished = bench(&server, &args);
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let sent: Vec<(String, u64)> = server
        .requests()
        .iter()
        .map(|request| {
            (
                request.body["prompt"].to_string(),
                request.body["max_tokens"].as_u64().expect("a count"),
            )
        })
        .collect();
    let expected = [("\"one\"", 5), ("\"two\"", 6), ("\"three\"", 128), ("\"one\"", 5)];
    assert_eq!(sent, expected.map(|(prompt, length)| (prompt.to_owned(), length)));
    assert_eq!(server.requests()[0].body.get("ignore_eos"), None);

    let broken = folder.write("broken.jsonl", "{\"prompt\": \"one\"}\n{\"promt\": 1}\n");
    let refused = bench(&server, &["--dataset-name", "prompts", "--dataset-path", &broken]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("broken.jsonl: line 2: missing field `prompt`"),
        "{}",
        refused.stderr
    );
}

#[test]
fn progress_off_a_terminal_is_plain_lines() {
    let server = Server::start(|_| Reply::crumbs(three_tokens()));
    // Of several, one that takes a second would have a line of its own.
    let shown = bench(&server, &["--num-prompts", "1"]);
    assert!(shown.stderr.starts_with("bench: 100 % (1/1 requests"), "{}", shown.stderr);
    assert_eq!(shown.stderr.lines().count(), 1);
    let hidden = bench(&server, &["--num-prompts", "3", "--no-progress"]);
    assert_eq!(hidden.stderr, "");
}

#[test]
fn wrong_flags_are_usage_errors() {
    for (args, why) in [
        (&["--num-prompts", "0"][..], "--num-prompts is 0, must be between 1 and"),
        (&["--base-url", "ftp://host"], "only http:// and https://"),
        (&["--request-rate", "0"], "--request-rate is 0, must be above 0"),
        (&["--request-rate", "nan"], "--request-rate is NaN"),
        (&["--request-rate", "0.0001"], "more than 30 days"),
        (&["--burstiness", "0"], "must be between 0.001"),
        (&["--random-range-ratio", "1"], "must be in [0, 1)"),
        (&["--temperature", "3"], "between 0 and 2"),
        (&["--metric-percentiles", "101"], "between 0 and 100"),
        (&["--goodput", "itl:5"], "is not NAME:MILLISECONDS"),
        (&["--dataset-name", "prompts"], "needs --dataset-path"),
        (&["--dataset-path", "x"], "add --dataset-name prompts"),
        (&["--no-stream", "--goodput", "ttft:5"], "not known of answers that are not streamed"),
        (&["--scenario", "/nowhere.toml"], "scenario /nowhere.toml: No such file"),
    ] {
        let refused = run(&[&["bench"], args].concat());
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(why), "{args:?}: {}", refused.stderr);
        assert!(!refused.stderr.contains("panicked"));
    }
}

#[test]
fn nobody_at_the_address_is_told_with_a_hint() {
    let port = port().to_string();
    let refused = run(&["bench", "--port", &port]);
    assert_eq!(refused.code, 1);
    let expected = format!("error: cannot connect to 127.0.0.1:{port}: Connection refused");
    assert!(refused.stderr.starts_with(&expected), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: is a server running there? `playhouse serve`"));
}
