//! Bodies that cannot fit, and what they cost.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::server::Server;

const MIB: u64 = 1 << 20;

/// Returns a number of `/proc/PID/status`, in bytes.
fn memory(server: &Server, field: &str) -> u64 {
    let path = format!("/proc/{}/status", server.pid());
    let status = fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("such a field");
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    1024 * kib.parse::<u64>().expect("a number")
}

/// Sends a body, and returns the status and by how much the memory of the server grew meanwhile.
fn cost(server: &Server, path: &str, body: &str) -> (u16, u64) {
    // "5" resets the peak (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("a process of ours");
    let before = memory(server, "VmRSS");
    let headers = "content-type: application/json\r\n";
    let response = server.send("POST", path, headers, body);
    (response.status, memory(server, "VmHWM").saturating_sub(before))
}

/// A list of `count` times `item`.
fn list(count: usize, item: &str) -> String {
    let mut list = String::with_capacity(count * (item.len() + 1) + 2);
    write!(list, "[{item}").expect("a string grows");
    (1..count).for_each(|_| write!(list, ",{item}").expect("a string grows"));
    list.push(']');
    list
}

#[test]
fn a_body_that_cannot_fit_costs_little_more_than_its_bytes_and_gives_them_back() {
    let server = Server::start(&[]);
    let answer = server.post("/v1/completions", &json!({ "prompt": "The sea", "max_tokens": 4 }));
    assert_eq!(answer.status, 200);
    let before = memory(&server, "VmRSS");
    let text = "lorem ".repeat(16 * MIB as usize / 6);
    let message = json!({ "messages": [{ "role": "user", "content": text }] });
    let prompt = |prompt: &Value| json!({ "prompt": prompt, "max_tokens": 1 }).to_string();
    for (path, body) in [
        ("/v1/completions", prompt(&json!(text))),
        ("/v1/completions", prompt(&json!(["a", text]))),
        ("/v1/completions", format!("{{\"prompt\":{}}}", list(6 << 20, "7"))),
        ("/v1/completions", format!("{{\"prompt\":{}}}", list(4 << 20, "[7]"))),
        ("/v1/completions", format!("{{\"prompt\":\"a\",\"stop\":{}}}", list(8 << 20, "1"))),
        ("/v1/chat/completions", message.to_string()),
        ("/v1/chat/completions", format!("{{\"messages\":{}}}", list(5 << 20, "{}"))),
        ("/tokenize", prompt(&json!(text))),
        ("/tokenize", message.to_string()),
        ("/detokenize", format!("{{\"tokens\":{}}}", list(8 << 20, "7"))),
    ] {
        let (status, grown) = cost(&server, path, &body);
        let begin = &body[..40];
        assert_eq!(status, 400, "{path} {begin}");
        let most = 4 * body.len() as u64 + 64 * MIB;
        assert!(grown < most, "{path} {begin}: {} MiB", grown / MIB);
    }
    let left = memory(&server, "VmRSS").saturating_sub(before);
    assert!(left < 96 * MIB, "{} MiB stay behind", left / MIB);
}
