//! `playhouse serve` as an operator meets it: start, bad input at start, drain, leaving clients.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use crate::ports::ports;
use crate::server::Server;
use serde_json::{Value, json};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference");

/// Runs `playhouse serve ARGS` to its end: it must fail, fast, with one clear message.
fn refused(args: &[&str]) -> String {
    let (code, message) = refused_with(args);
    assert_eq!(code, 1, "{message}");
    assert!(message.starts_with("error: "), "{message}");
    message
}

fn refused_with(args: &[&str]) -> (i32, String) {
    let start = SystemTime::now();
    let output: Output = Command::new(env!("CARGO_BIN_EXE_playhouse"))
        .arg("serve")
        .args(args)
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("the binary starts");
    let took = start.elapsed().unwrap_or_default();
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(took < Duration::from_secs(5), "took {took:?}");
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
    (output.status.code().expect("it exits"), stderr)
}

/// A copy of a reference checkpoint that a test may damage.
fn copy_of(case: &str, name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("a folder for the copy");
    for entry in fs::read_dir(Path::new(REFERENCE).join(case)).expect("the reference checkpoint") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
    }
    folder
}

fn with_config(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let folder = copy_of("llama-mha-f32", name);
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).expect("config.json");
    let mut config = serde_json::from_str(&text).expect("JSON");
    change(&mut config);
    fs::write(&path, config.to_string()).expect("written");
    refused(&[folder.to_str().expect("a plain path")])
}

fn assert_names(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
}

#[test]
fn the_banner_says_what_is_served_and_where() {
    let server = Server::start(&["--threads", "1"]);
    for word in ["demo", "Qwen3ForCausalLM", "bf16", "1 thread", "tokens", "no API key"] {
        assert!(server.banner.contains(word), "no {word:?} in:\n{}", server.banner);
    }
    assert!(server.banner.lines().count() <= 24, "more than one screen");
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/livez").status, 200);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_port_in_use_is_named_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let message = refused(&["--port", &port]);
    assert_names(&message, &[&port, "in use", "hint:"]);
}

#[test]
fn an_admin_port_that_nobody_asked_for_gives_way_and_one_that_was_asked_for_does_not() {
    let [port, taken] = ports().map(|port: u16| port);
    let _taken = TcpListener::bind(("127.0.0.1", taken)).expect("it was free");
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("admin-port.log");
    let port = port.to_string();
    let server = Server::start_on(&port, &["--threads", "1"], &log);
    let line = server.banner.lines().find(|line| line.trim_start().starts_with("admin "));
    let line = line.expect("the banner names the admin API");
    assert_names(line, &["http://127.0.0.1:", &format!("{taken} is in use")]);
    assert!(!line.contains(&format!("127.0.0.1:{taken}/")), "{line}");
    let said = fs::read_to_string(&log).expect("a log");
    assert_names(&said, &[&taken.to_string(), "--admin-port"]);
    let (admin, free) = (taken.to_string(), ["--port", "0"]);
    let message = refused(&[&free[..], &["--admin-port", &admin]].concat());
    assert_names(&message, &[&admin, "in use", "hint:", "--admin-port"]);
}

#[test]
fn a_server_for_other_machines_without_a_key_warns() {
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-key.log");
    let said = |environment: &[(&str, &str)]| {
        let server = Server::start_logged(&["--host", "0.0.0.0"], environment, &log);
        assert_eq!(server.get("/v1/models").status, if environment.is_empty() { 200 } else { 401 });
        fs::read_to_string(&log).expect("a log")
    };
    assert_names(&said(&[]), &["WARN", "no API key", "0.0.0.0", "--api-key-file"]);
    let with_key = said(&[("PLAYHOUSE_API_KEY", "secret")]);
    assert!(!with_key.contains("no API key"), "{with_key}");
}

#[test]
fn an_idle_connection_is_kept_for_as_long_as_the_flag_says() {
    let server = Server::start(&["--timeout-keep-alive", "1"]);
    let mut stream = server.connect();
    let begun = SystemTime::now();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut answer = String::new();
    // It is answered, and read to the end of the connection.
    stream.read_to_string(&mut answer).expect("closed in order");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let kept = begun.elapsed().unwrap_or_default();
    assert!((1..60).contains(&kept.as_secs()), "{kept:?}");
    let (code, message) = refused_with(&["--timeout-keep-alive", "0"]);
    assert_eq!(code, 2, "{message}");
    assert_names(&message, &["--timeout-keep-alive", "1s to 24h"]);
}

#[test]
fn pages_that_are_named_may_use_the_api_and_others_may_not() {
    let flags = ["--allowed-origins", r#"["https://chat.example"]"#, "--allow-credentials"];
    let server = Server::start(&[&flags[..], &["--allowed-methods", "POST"]].concat());
    let ask = |method: &str, origin: &str| {
        let origin = format!("origin: {origin}\r\naccess-control-request-method: POST\r\n");
        server.send(method, "/v1/completions", &origin, r#"{"prompt": "x", "max_tokens": 1}"#)
    };
    let answer = ask("POST", "https://chat.example");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://chat.example"));
    let preflight = ask("OPTIONS", "https://chat.example");
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-methods")),
        (200, Some("post"))
    );
    assert_eq!(preflight.header("access-control-allow-credentials"), Some("true"));
    let refused = ask("POST", "http://localhost:5173");
    assert_eq!(refused.status, 403);
    assert_names(&refused.body, &["foreign_origin", "http://localhost:5173", "--allowed-origins"]);
    let (code, message) = refused_with(&["--allowed-origins", "chat.example"]);
    assert_eq!(code, 2, "{message}");
    assert_names(&message, &["--allowed-origins", "chat.example", "http://localhost:5173"]);
}

#[test]
fn damaged_checkpoints_are_refused_by_file_and_key() {
    assert_names(&refused(&["/no/such/model"]), &["/no/such/model"]);
    let message = with_config("unknown-architecture", |config| {
        config["architectures"] = json!(["GPT2LMHeadModel"]);
    });
    assert_names(&message, &["config.json", "GPT2LMHeadModel", "LlamaForCausalLM"]);
    let message = with_config("no-heads", |config| config["num_attention_heads"] = json!(0));
    assert_names(&message, &["config.json", "num_attention_heads", "0"]);
    let message = with_config("huge-hidden", |config| config["hidden_size"] = json!(1u64 << 60));
    assert_names(&message, &["config.json", "hidden_size"]);
    let message = with_config("wrong-width", |config| config["intermediate_size"] = json!(40));
    assert_names(&message, &["model.safetensors", "40"]);

    let folder = copy_of("llama-mha-f32", "truncated-weights");
    let weights = folder.join("model.safetensors");
    let bytes = fs::read(&weights).expect("weights");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("written");
    assert_names(&refused(&[folder.to_str().expect("plain")]), &["model.safetensors"]);

    let folder = copy_of("llama-mha-f32", "hostile-header");
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend_from_slice(b"{}");
    fs::write(folder.join("model.safetensors"), huge).expect("written");
    assert_names(&refused(&[folder.to_str().expect("plain")]), &["model.safetensors"]);

    let folder = copy_of("llama-mha-f32", "broken-tokenizer");
    fs::write(folder.join("tokenizer.json"), "{\"model\": {\"type\": \"BPE\"").expect("written");
    assert_names(&refused(&[folder.to_str().expect("plain")]), &["tokenizer.json"]);

    let folder = copy_of("llama-mha-f32", "deep-config");
    fs::write(folder.join("config.json"), "[".repeat(100_000)).expect("written");
    assert_names(&refused(&[folder.to_str().expect("plain")]), &["config.json"]);
}

#[test]
fn flags_out_of_range_are_refused_with_the_numbers() {
    let case = format!("{REFERENCE}/llama-mha-f32");
    let (code, message) = refused_with(&[&case, "--kv-cache-memory", "1KiB"]);
    assert_eq!(code, 2, "{message}");
    assert_names(&message, &["--kv-cache-memory", "--max-model-len"]);
    let (code, message) = refused_with(&[&case, "--max-model-len", "100000000"]);
    assert_eq!(code, 2, "{message}");
    assert_names(&message, &["100000000", "max_position_embeddings"]);
}

/// What `plan` or another engine understands of a command line, and `serve` would have to obey, is never
/// dropped, and named with what to do.
#[test]
fn what_is_not_served_is_refused() {
    let cases: [(&[&str], &[&str]); 18] = [
        (&["--quantization", "fp8"], &["--quantization fp8: ", "bf16, f16 or f32"]),
        (&["--kv-cache-dtype", "fp8"], &["--kv-cache-dtype fp8: ", "type of the weights"]),
        (&["--nnodes", "2"], &["--nnodes 2: ", "playhouse node"]),
        (&["--gpu-memory-utilization", "0.9"], &["--kv-cache-memory"]),
        (&["--max-running-requests", "8"], &["--max-num-seqs"]),
        (&["--model", "/models/x"], &["--model /models/x: ", "as the first argument"]),
        (&["-dcp", "2", "-ep"], &["-dcp 2: ", "-ep true: ", "(-tp, -pp, -dp)"]),
        (&["-tp", "3"], &["heads cannot be split", "; give -tp "]),
        (
            &["-pp", "2", "--pipeline-partition", "1,1"],
            &["--pipeline-partition hands out 2 layers"],
        ),
        (&["--swap-space", "4"], &["--swap-space: vLLM has this flag", "no such setting"]),
        (&["--mem-fraction-static=0.8"], &["--mem-fraction-static: ", "--kv-cache-memory"]),
        (&["--no-enable-prefix-caching"], &["cannot be turned off", "cache_salt"]),
        (&["--block-size", "32"], &["--block-size 32: a KV block always has 16 tokens"]),
        (&["--prot", "0"], &["--prot", "'--port'"]),
        (&["--max-num-batchd-tokens", "1"], &["'--max-num-batched-tokens'"]),
        (&["--tensor-paralel-size", "2"], &["'--tensor-parallel-size'"]),
        (&["-tpp", "2"], &["-tpp", "-tp"]),
        (&["--max-model-len", "4q"], &["'4q'", "4k (4000)"]),
    ];
    for (flags, named) in cases {
        let (code, message) = refused_with(flags);
        assert_eq!(code, 2, "{flags:?}: {message}");
        for text in named {
            assert!(message.contains(text), "{flags:?}: no {text:?} in {message}");
        }
        for internal in [" → ", "tensor =", "pipeline_partition", "attention_tensor"] {
            assert!(!message.contains(internal), "{flags:?}: {message}");
        }
    }
}

/// The flags of other engines for what is always so here, counts with units, and what `plan` prints of a
/// layout that is served.
#[test]
fn what_is_so_anyway_may_be_said() {
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("said-anyway.log");
    let flags =
        ["--enable-prefix-caching", "--enforce-eager", "--load-format", "auto", "-dcp", "1"];
    let counts =
        ["--max-model-len", "0.5K", "--max-num-seqs", "4", "--max-num-batched-tokens", "1K"];
    let server = Server::start_logged(&[flags, counts].concat(), &[], &log);
    assert!(server.banner.contains("context   512 tokens"), "{}", server.banner);
    assert!(server.banner.contains("1024 tokens per step"), "{}", server.banner);
    let log = fs::read_to_string(&log).expect("the log");
    assert!(log.contains("--enable-prefix-caching: prefix caching is always on"), "{log}");
    assert!(log.contains("--load-format auto: "), "{log}");
}

#[test]
fn a_name_is_not_taken_for_the_model_nor_the_model_for_a_name() {
    let model = format!("{REFERENCE}/qwen2-tied-f32");
    let names = ["--served-model-name", "star,moon", "--served-model-name", "sun"];
    let server = Server::start(&[&names[..], &[&model]].concat());
    assert!(server.banner.contains("star, moon, sun"), "{}", server.banner);
    assert!(server.banner.contains("Qwen2ForCausalLM"), "{}", server.banner);
    let listed = server.get("/v1/models").json();
    let ids: Vec<_> =
        listed["data"].as_array().expect("a list").iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, ["star", "moon", "sun"]);
    let (code, message) = refused_with(&["--served-model-name", "a,,b"]);
    assert_eq!(code, 2, "{message}");
}

/// Each line of the help is a flag that can be given, once.
#[test]
fn the_help_has_what_can_be_given_and_nothing_twice() {
    let output = Command::new(env!("CARGO_BIN_EXE_playhouse")).args(["serve", "--help"]).output();
    let help = String::from_utf8(output.expect("the binary starts").stdout).expect("UTF-8");
    let flag = |line: &str| {
        let words = line.trim_start().split([' ', ',', '=']);
        let long = |word: &&str| word.starts_with("--");
        line.starts_with("  ")
            .then(|| words.filter(|word| !word.is_empty()).find(long))
            .flatten()
            .map(str::to_owned)
    };
    // Descriptions are further in, and may begin with a flag.
    let is_entry = |line: &&str| {
        let text = line.trim_start();
        text.starts_with('-') && line.len() - text.len() <= 6
    };
    let mut flags: Vec<String> = help.lines().filter(is_entry).filter_map(flag).collect();
    let count = flags.len();
    assert!(count > 30, "{help}");
    flags.sort();
    flags.dedup();
    assert_eq!(flags.len(), count, "one is there twice: {help}");
    for refused in ["--expert-parallel-size", "--nnodes", "--model ", "--gpu-memory-utilization"] {
        assert!(!help.contains(refused), "{refused}: {help}");
    }
    assert!(help.contains("  -tp, --tensor-parallel-size N "), "{help}");
}

/// A completion of a reference prompt by token ids, over HTTP.
fn greedy(server: &Server, prompt: &Value) -> Value {
    let body = json!({
        "prompt": prompt["tokens"], "max_tokens": 32, "temperature": 0, "ignore_eos": true,
        "repetition_penalty": 1.0, "return_token_ids": true,
    });
    let response = server.post("/v1/completions", &body);
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["choices"][0]["token_ids"].clone()
}

#[test]
fn every_reference_checkpoint_gives_its_reference_tokens_over_http() {
    let mut cases = 0;
    for entry in fs::read_dir(REFERENCE).expect("the reference checkpoints") {
        let case = entry.expect("readable").path();
        let Ok(text) = fs::read_to_string(case.join("reference.json")) else { continue };
        let reference: Value = serde_json::from_str(&text).expect("JSON");
        let path = case.to_str().expect("plain");
        for layout in layouts() {
            if !layout.is_empty() && !can_plan(path, &layout) {
                continue;
            }
            let layout: Vec<&str> = layout.iter().map(String::as_str).collect();
            let args = [&[path, "--threads", "1"][..], &layout].concat();
            let server = Server::start(&args);
            // All at once, so that batches mix and several steps are in flight.
            std::thread::scope(|scope| {
                for prompt in reference["prompts"].as_array().expect("prompts") {
                    let server = &server;
                    let layout = &layout;
                    scope.spawn(move || {
                        assert_eq!(greedy(server, prompt), prompt["greedy"], "{path} {layout:?}");
                    });
                }
            });
            cases += 1;
        }
    }
    assert!(cases >= 150, "only {cases} layouts of the checkpoints in {REFERENCE}");
}

/// TP 1, 2, 4 by PP 1, 2, 3 by DP 1, 2; two replicas only of what is not too large for a small
/// machine. More than one rank is a process each.
fn layouts() -> Vec<Vec<String>> {
    let mut layouts = Vec::new();
    for (tensor, pipeline) in [1, 2, 4].iter().flat_map(|tp| [1, 2, 3].map(|pp| (*tp, pp))) {
        for data in if tensor * pipeline <= 4 { 1..=2 } else { 1..=1 } {
            let sizes = [("-tp", tensor), ("-pp", pipeline), ("-dp", data)];
            let split = sizes.iter().filter(|(_, size)| *size > 1);
            layouts.push(split.flat_map(|(flag, n)| [(*flag).to_owned(), n.to_string()]).collect());
        }
    }
    layouts
}

/// Whether the planner accepts the layout; `serve` is to run all that it does.
fn can_plan(model: &str, layout: &[String]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
    command.arg("plan").arg(model).args(layout).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("the binary starts").success()
}

/// Sends a streaming request of so many choices that would run for long, and reads its first event.
fn long_stream(server: &Server, choices: usize) -> BufReader<std::net::TcpStream> {
    let body = json!({
        "prompt": "hello", "max_tokens": 900, "ignore_eos": true, "stream": true, "temperature": 0,
        "n": choices,
    })
    .to_string();
    let mut stream = server.connect();
    let length = body.len();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").expect("sent");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("a line"), 0, "no event came");
    }
    reader
}

#[test]
fn a_client_that_leaves_mid_stream_frees_every_block() {
    let server = Server::start(&[]);
    // They may have ended by themselves before it is asked; then there are others.
    server.wait_until("some are left in their midst", |server| {
        let streams: Vec<_> = (0..4).map(|_| long_stream(server, 1)).collect();
        let held = server.metric("playhouse_kv_blocks_held");
        drop(streams);
        held > 0.0
    });
    server.wait_until("no block is held", |server| {
        server.metric("playhouse_kv_blocks_held") == 0.0
            && server.metric("playhouse_requests_running") == 0.0
    });
}

#[test]
fn sigterm_drains_and_exits_with_zero() {
    let server = Server::start(&[]);
    let mut stream = long_stream(&server, 1);
    server.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the stream goes on to its end");
    assert!(rest.contains("data: [DONE]"), "the stream was cut: {rest}");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_sigterm_stops_at_once() {
    let server = Server::start(&[]);
    // More than it can have done when the second comes, however late that is.
    let streams: Vec<_> = (0..8).map(|_| long_stream(&server, 16)).collect();
    server.signal("TERM");
    server.wait_until("new work is refused", |server| {
        std::net::TcpStream::connect(server.url().trim_start_matches("http://")).is_err()
            || server.get("/readyz").status == 503
    });
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(143));
    drop(streams);
}
