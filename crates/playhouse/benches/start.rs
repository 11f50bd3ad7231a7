//! The time from the start of the binary to the first token of the embedded model, over HTTP, and the
//! memory in use then. `cargo bench -p playhouse --bench start` prints a line per run.
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const RUNS: usize = 5;
const BODY: &str = r#"{"messages":[{"role":"user","content":"What is the capital of France?"}],"stream":true,"temperature":0}"#;

fn main() {
    for _ in 0..RUNS {
        let started = Instant::now();
        let mut server = Command::new(env!("CARGO_BIN_EXE_playhouse"))
            .args(["serve", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        first_token(&address(&mut server));
        let first = started.elapsed();
        println!("first token after {:.1} ms, {}", first.as_secs_f64() * 1e3, resident(&server));
        server.kill().and_then(|()| server.wait()).expect("the server is ours to stop");
    }
}

/// Reads the banner up to the line that names the address.
fn address(server: &mut Child) -> String {
    let lines = BufReader::new(server.stdout.take().expect("stdout is piped")).lines();
    let url = lines.map(|line| line.expect("UTF-8")).find_map(|line| {
        let (_, rest) = line.split_once("http://")?;
        rest.split('/').next().map(str::to_owned)
    });
    url.expect("the banner names an address")
}

fn first_token(address: &str) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let length = BODY.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    write!(stream, "{head}content-length: {length}\r\n\r\n{BODY}").expect("the request is sent");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("UTF-8"));
    // The first event carries the role only.
    let mut events = lines.by_ref().filter(|line| line.starts_with("data: "));
    events.nth(1).expect("a token comes");
}

fn resident(server: &Child) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: unknown");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
