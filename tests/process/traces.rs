//! Traces and logs of real processes, as a collector and an operator get them.

use std::fs;
use std::path::PathBuf;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::cluster::Folder;
use crate::collector::{Collector, attribute, hex};
use crate::https::certify;
use crate::ports::port;
use crate::ranks::{children, kill};
use crate::server::{Response, Server};

/// A word in every prompt here, and nowhere else.
const SECRET: &str = "zanzibar";

/// The ids of a client's trace and span.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn ask(server: &Server, headers: &str, stream: bool) -> Response {
    let body = json!({
        "messages": [{ "role": "user", "content": format!("The island of {SECRET} is") }],
        "max_tokens": 24,
        "ignore_eos": true,
        "stream": stream,
    });
    let response = server.send("POST", "/v1/chat/completions", headers, &body.to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    response
}

fn traceparent(trace: &str, flags: &str) -> String {
    format!("traceparent: 00-{trace}-{PARENT}-{flags}\r\n")
}

/// Returns the path of a server's log.
fn log(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Returns the lines of a log, each of which is a JSON object.
fn lines(log: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(log).expect("a log");
    let parsed = text.lines().map(serde_json::from_str);
    parsed.map(|line| line.unwrap_or_else(|why| panic!("{why} in {text}"))).collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[test]
fn a_request_is_one_trace_from_its_client_to_the_shards() {
    let collector = Collector::start();
    // The command of the page, and more.
    let page = include_str!("../../docs/observability.md");
    let mut commands = page.split("```sh\nplayhouse serve ").skip(1);
    let command = commands.next().and_then(|rest| rest.lines().next()).expect("a command");
    assert!(commands.next().is_none(), "no test runs the others");
    let url = collector.url();
    let flags = command.split(' ').map(|word| if word.starts_with("http") { &url } else { word });
    let mut arguments: Vec<&str> = flags.collect();
    arguments.extend(["-tp", "2", "--served-model-name", "star"]);
    let server = Server::start_with(
        &arguments,
        &[("OTEL_SERVICE_NAME", "theatre"), ("OTEL_TRACES_SAMPLER", "parentbased_always_off")],
    );
    // Neither who does not want to be traced nor who says nothing is.
    let other = "11111111111111111111111111111111";
    for headers in [traceparent(other, "00"), String::new(), "traceparent: junk\r\n".to_owned()] {
        assert_eq!(ask(&server, &headers, false).header("traceresponse"), None);
    }
    for stream in [false, true] {
        let headers = traceparent(TRACE, "01") + "x-request-id: opening-night\r\n";
        let response = ask(&server, &headers, stream);
        let back = response.header("traceresponse").expect("traced");
        assert!(back.starts_with(&format!("00-{TRACE}-")) && back.ends_with("-01"), "{back}");
    }
    // Nothing waits for the queue to be emptied in time: the end of the server does it.
    server.signal("TERM");
    assert!(server.wait().success());

    let spans = collector.spans();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "one trace");
    assert!(collector.services().iter().all(|name| name == "theatre"));
    assert!(!collector.knows(SECRET), "a prompt is nobody's business");
    let requests = named(&spans, "POST /v1/chat/completions");
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(hex(&request.parent_span_id), PARENT);
        assert_eq!(request.kind, SpanKind::Server as i32);
        assert_says_what_was_asked(request);
        assert_has_phases(&spans, request);
    }
}

fn assert_says_what_was_asked(request: &Span) {
    for (key, value) in [
        ("http.route", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "playhouse"),
        ("gen_ai.request.id", "opening-night"),
        ("gen_ai.request.model", "star"),
        ("gen_ai.request.max_tokens", "24"),
        ("gen_ai.response.finish_reasons", "length"),
        ("gen_ai.usage.output_tokens", "24"),
        ("gen_ai.usage.completion_tokens", "24"),
    ] {
        assert_eq!(attribute(request, key).as_deref(), Some(value), "{key}");
    }
    let number = |key| attribute(request, key).expect(key).parse::<f64>().expect("a number");
    assert!(number("gen_ai.usage.input_tokens") > 4.0);
    let first = number("gen_ai.latency.time_to_first_token");
    assert!(first > 0.0 && first <= number("gen_ai.latency.e2e"));
}

/// Asserts that a request has one generation, its phases one after the other, and within them the steps of two
/// shards.
fn assert_has_phases(spans: &[Span], request: &Span) {
    let parts_of = |whole: &Span, name| -> Vec<Span> {
        let parts = named(spans, name).into_iter();
        parts.filter(|part| part.parent_span_id == whole.span_id).cloned().collect()
    };
    let [generation] = &parts_of(request, "generate")[..] else { panic!("one generation") };
    assert_eq!(attribute(generation, "playhouse.generated_tokens").as_deref(), Some("24"));
    let phases = ["queue", "prefill", "decode"].map(|name| {
        let [phase] = &parts_of(generation, name)[..] else { panic!("one {name}") };
        assert_eq!(attribute(phase, "playhouse.replica").as_deref(), Some("0"));
        phase.clone()
    });
    assert!(phases.is_sorted_by_key(|phase| phase.start_time_unix_nano), "{phases:?}");
    let steps = parts_of(&phases[1], "step");
    assert!(!steps.is_empty(), "the prompt takes a step");
    // The step that feeds the first token belongs to no prefill.
    let number = |span: &Span, key| -> usize {
        attribute(span, key).expect(key).parse().unwrap_or_else(|why| panic!("{key}: {why}"))
    };
    let fed: usize = steps.iter().map(|step| number(step, "playhouse.step.tokens")).sum();
    let prompt = number(request, "gen_ai.usage.input_tokens");
    assert_eq!(fed, prompt - number(generation, "playhouse.cached_tokens"));
    for step in &steps {
        let mut shards: Vec<_> = parts_of(step, "shard")
            .iter()
            .map(|shard| attribute(shard, "playhouse.shard").expect("its place"))
            .collect();
        shards.sort_unstable();
        assert_eq!(shards, ["0", "1"]);
    }
    // A span for each token would be too much.
    let decodes = parts_of(&phases[2], "step").len();
    let took = phases[2].end_time_unix_nano - phases[2].start_time_unix_nano;
    assert!(decodes as u64 <= 1 + took / 100_000_000, "{decodes} steps in {took} ns");
}

#[test]
fn a_collector_that_is_not_there_is_missed_once_and_stops_nobody() {
    let log = log("no-collector.log");
    let url = format!("http://127.0.0.1:{}", port());
    let server =
        Server::start_logged(&["--log-format", "json", "--otlp-traces-endpoint", &url], &[], &log);
    let dropped = |server: &Server| server.metric("playhouse_trace_spans_dropped_total");
    for round in 0..2 {
        let before = dropped(&server);
        for _ in 0..8 {
            ask(&server, "", round == 1);
        }
        server.wait_until("spans are dropped", |server| dropped(server) > before);
    }
    assert_eq!(server.metric("playhouse_trace_spans_exported_total"), 0.0);
    server.signal("TERM");
    assert!(server.wait().success());
    let lines = lines(&log);
    let said = |line: &&Value| line["message"].as_str().is_some_and(|it| it.contains("traces"));
    let missed: Vec<_> = lines.iter().filter(said).collect();
    let [line] = &missed[..] else { panic!("not once: {lines:?}") };
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["endpoint"], format!("{url}/v1/traces"));
    assert!(line["why"].as_str().is_some_and(|why| why.contains("refused")), "{line}");
}

/// TR-5
#[test]
fn a_collector_behind_tls_gets_spans_and_a_token_and_another_one_nothing() {
    let folder = Folder::new();
    let files = ["cert.pem", "key.pem", "other.pem", "other-key.pem"].map(|it| folder.join(it));
    let [certificate, key, other, other_key] = &files;
    certify(certificate, key);
    certify(other, other_key);
    let collector = Collector::over_tls(certificate, key);
    let url = collector.url();
    let traced = |trusted: &str, log: &PathBuf| {
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key-of-copper"),
            ("RUST_LOG", "trace"),
        ];
        let server = Server::start_logged(&["--log-format", "json"], &environment, log);
        ask(&server, "", false);
        server.signal("TERM");
        assert!(server.wait().success());
        let text = fs::read_to_string(log).expect("a log");
        assert!(!text.contains("key-of-copper"), "the token is in the log:\n{text}");
        text
    };
    let said = traced(other, &log("distrusted-collector.log"));
    assert!(said.contains("traces do not arrive"), "{said}");
    assert!(said.contains("invalid peer certificate"), "{said}");
    assert!(collector.spans().is_empty() && collector.head().is_empty());

    let said = traced(certificate, &log("trusted-collector.log"));
    assert!(!said.contains("traces do not arrive"), "{said}");
    assert!(!named(&collector.spans(), "generate").is_empty());
    let head = collector.head();
    assert!(head.contains("\r\nauthorization: bearer key-of-copper\r\n"), "{head}");
}

/// No prompt, answer or key is in the log of starts, deaths and refusals.
#[test]
fn nothing_a_client_says_is_logged() {
    let log = log("quiet.log");
    let arguments = ["-tp", "2", "--log-format", "json"];
    let environment =
        [("PLAYHOUSE_API_KEY", "key-of-gold"), ("PLAYHOUSE_ADMIN_TOKEN", "secret-plan")];
    let server = Server::start_logged(&arguments, &environment, &log);
    let key = "authorization: Bearer key-of-gold\r\n";
    let said = ask(&server, key, false);
    let answer = said.json()["choices"][0]["message"]["content"].clone();
    let wrong = format!("{{\"messages\": \"{SECRET}\"}}");
    assert_eq!(server.send("POST", "/v1/chat/completions", key, &wrong).status, 400);
    assert_eq!(server.send("POST", "/v1/chat/completions", "", &wrong).status, 401);
    kill(children(server.pid())[0], "KILL");
    assert_eq!(ask(&server, key, true).status, 200);
    server.signal("TERM");
    assert!(server.wait().success());

    let lines = lines(&log);
    let restarted = |line: &&Value| line["message"] == "restarting" && line["level"] == "WARN";
    let restart = lines.iter().find(restarted).expect("the death of a rank is logged");
    assert!(restart["timestamp"].is_string() && restart["replica"].is_string(), "{restart}");
    let text = fs::read_to_string(&log).expect("a log");
    let answer = answer.as_str().expect("text").trim();
    assert!(answer.len() > 8, "{answer:?} might be anywhere");
    for secret in [SECRET, answer, "key-of-gold", "secret-plan"] {
        assert!(!text.contains(secret), "{secret} is in the log:\n{text}");
    }
}

#[test]
fn settings_that_cannot_be_followed_are_refused_before_anything_starts() {
    for (arguments, environment, said) in [
        (&["--otlp-traces-endpoint", "grpc://x:4317"][..], &[][..], "--otlp-traces-endpoint"),
        (
            &["--otlp-traces-endpoint", "https://x:4318"],
            &[("OTEL_EXPORTER_OTLP_HEADERS", "Bearer hush")],
            "OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (
            &["--otlp-traces-endpoint", "http://x:4318"],
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
        (&["--log-format", "xml"], &[], "write json or pretty"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_playhouse"))
            .arg("serve")
            .args(arguments)
            .envs(environment.iter().copied())
            .output()
            .expect("the binary starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
}
