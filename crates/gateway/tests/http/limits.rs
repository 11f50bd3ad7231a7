//! **G6** (GW-4) and the limits of a request: which requests are refused, with which status, and when to
//! retry.

use std::io::Write;
use std::time::Duration;

use playhouse_cluster::ClientLimits;
use playhouse_gateway::ApiKey;
use serde_json::json;

use super::support::*;

const CHAT: &str = "/v1/chat/completions";

fn ask(key: &str, header: &str, more: serde_json::Value) -> Vec<u8> {
    let body = with(hello(), more).to_string();
    let length = body.len();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n{header}\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

fn keys(small: ClientLimits) -> Vec<ApiKey> {
    vec![ApiKey { limits: small, ..ApiKey::new("small", "s") }, ApiKey::new("large", "l")]
}

/// Returns how long `openai-python` would wait: `retry-after-ms`, else `Retry-After`, if it is at most a
/// minute.
fn openai_wait(reply: &Reply) -> f64 {
    let number = |name: &str| reply.header(name).and_then(|value| value.parse::<f64>().ok());
    let millis = number("retry-after-ms").expect("a number");
    let seconds = number("retry-after").expect("a number");
    assert!(millis / 1000.0 <= seconds && seconds <= 60.0 && millis >= 1000.0, "{reply:?}");
    millis / 1000.0
}

/// AU-2: a key's limits hold over all its connections; other keys are not affected.
#[test]
fn g6_a_key_over_its_own_limit_is_429_and_full_queues_503() {
    let limits = ClientLimits { requests: Some(2), ..ClientLimits::default() };
    let server = Server::with(|config| config.api_keys = keys(limits), mute);
    let hold = |key: &str, count: u32| {
        let before = server.door.in_flight();
        let mut stream = server.connect();
        stream.write_all(&ask(key, "", json!({"n": count}))).expect("open");
        until("they run", || server.door.in_flight() == before + count);
        stream
    };
    let held = hold("s", 2);
    let reply = server.raw(&ask("s", "", json!({})));
    let (status, _, message) = reply.error();
    assert_eq!(status, 429);
    assert!(message.contains("you have 2 requests here already"), "{message}");
    assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
    assert!(openai_wait(&reply) >= 1.0);
    assert_eq!(server.door.in_flight(), 2, "a refusal takes nothing");

    let others = hold("l", 6);
    let reply = server.raw(&ask("l", "", json!({})));
    assert_eq!((reply.error().0, &reply.json()["error"]["code"]), (503, &json!("overloaded")));
    assert!(openai_wait(&reply) >= 1.0);

    let metrics =
        server.raw(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nx-api-key: l\r\n\r\n").text();
    for series in [r#"reason="over_limit",key="small"} 1"#, r#"reason="overloaded",key="large"} 1"#]
    {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
    drop((held, others));
    until("all have left", || server.door.in_flight() == 0);
    drop(hold("s", 2));
}

#[test]
fn g6_prompt_tokens_of_a_key_are_bounded() {
    let limits = ClientLimits { prompt_tokens: Some(20), ..ClientLimits::default() };
    let server = Server::with(|config| config.api_keys = keys(limits), mute);
    // A prompt of more than 10 tokens.
    let mut stream = server.connect();
    stream.write_all(&ask("s", "", json!({}))).expect("open");
    until("it runs", || server.door.in_flight() == 1);
    let reply = server.raw(&ask("s", "", json!({})));
    let (status, _, message) = reply.error();
    assert_eq!(status, 429);
    assert!(message.contains("20 prompt tokens"), "{message}");
}

/// A request that its key can never have is a mistake, not something to repeat.
#[test]
fn g6_what_a_key_can_never_have_is_400() {
    let limits =
        ClientLimits { requests: Some(2), prompt_tokens: Some(40), ..ClientLimits::default() };
    let server = Server::with(|config| config.api_keys = keys(limits), mute);
    for (more, parts) in [
        (json!({"n": 3}), ["3 requests", "at most 2", "max_concurrent_requests"]),
        (
            json!({"n": 2, "messages": [{"role": "user", "content": "a".repeat(30)}]}),
            ["prompt tokens", "at most 40", "max_queued_tokens"],
        ),
    ] {
        let reply = server.raw(&ask("s", "", more));
        let (status, _, message) = reply.error();
        assert_eq!((status, reply.header("retry-after")), (400, None));
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    assert_eq!(server.door.in_flight(), 0);
}

#[test]
fn g6_refusals_take_less_than_50_ms() {
    let server = Server::start(mute);
    let mut full = server.connect();
    full.write_all(&post(CHAT, with(hello(), json!({"n": 8})).to_string().as_bytes()))
        .expect("open");
    until("the queues are full", || server.door.in_flight() == 8);
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(server.post(CHAT, &hello()).status, 503);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    // The median: the machine of a test may be busy with others.
    assert!(times[25] < Duration::from_millis(50), "{times:?}");
}

#[test]
fn every_key_lets_in_and_no_other() {
    let server = Server::with(|config| config.api_keys = keys(ClientLimits::default()), mute);
    let models = |key: &str| {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n\r\n");
        server.raw(request.as_bytes()).status
    };
    assert_eq!(["s", "l", "", "sl", "small"].map(models), [200, 200, 401, 401, 401]);
}

#[test]
fn a_timeout_that_is_none_is_named() {
    let server = Server::start(mute);
    for bad in ["0", "-1", "1.5", "soon", "86400001", ""] {
        let header = format!("x-request-timeout-ms: {bad}\r\n");
        let (status, _, message) = server.raw(&ask("k", &header, json!({}))).error();
        assert_eq!(status, 400);
        assert!(message.contains("x-request-timeout-ms") && message.contains(bad), "{message}");
    }
}

#[test]
fn a_priority_is_an_integer() {
    let server = Server::start(saying("a"));
    for good in [json!(-5), json!(7), json!(0), json!(2.0), json!(null)] {
        server.post(CHAT, &with(hello(), json!({"priority": good}))).ok();
    }
    for bad in [json!("high"), json!(1.5), json!(1_i64 << 40)] {
        let (status, param, _) =
            server.post(CHAT, &with(hello(), json!({"priority": bad}))).error();
        assert_eq!((status, param.as_deref()), (400, Some("priority")));
    }
}
