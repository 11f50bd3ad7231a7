//! The real server, its processes, and the load that the same program puts on it.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_playhouse");

/// For all layouts. Little more tokens and sequences than the loads have keep the KV cache small.
const FLAGS: [&str; 8] = [
    "--max-num-batched-tokens",
    "512",
    "--max-model-len",
    "1024",
    "--max-num-seqs",
    "32",
    "--port",
    "0",
];

const WARM_UP_REQUESTS: usize = 4;

/// A load that sends its requests one at a time sends fewer, to take no longer than the others.
const FEWER: usize = 6;

/// Clock ticks of `/proc/*/stat`, the same on all machines that Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Requests of one kind.
pub(crate) struct Load {
    /// Tokens of a prompt; no two prompts are the same.
    pub(crate) input: usize,
    /// Tokens of an answer.
    pub(crate) output: usize,
    /// Requests that are under way at a time.
    pub(crate) at_once: usize,
}

/// The outcome of a load.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    /// Of prompts and answers together.
    pub(crate) tokens_per_s: f64,
    pub(crate) requests_per_s: f64,
    pub(crate) ttft_ms: f64,
    /// 0 for answers of one token.
    pub(crate) tpot_ms: f64,
    pub(crate) seconds: f64,
    pub(crate) cpu: CpuSeconds,
}

/// CPU time of a server.
#[derive(Clone, Copy)]
pub(crate) struct CpuSeconds {
    pub(crate) head: f64,
    /// Of those ranks that are processes.
    pub(crate) ranks: f64,
}

/// A running server. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    url: String,
    /// For results of loads.
    folder: PathBuf,
}

// === impl Load ===

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, output, at_once } = self;
        write!(f, "{input} tokens in, {output} out, {at_once} at once")
    }
}

// === impl Server ===

impl Server {
    /// Starts it on the checkpoint in `folder`, and waits until it is ready.
    pub(crate) fn start(folder: &Path, flags: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(folder)
            .args(FLAGS)
            .args(flags)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let url = lines.map(|line| line.expect("UTF-8")).find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.split('/').next().map(|address| format!("http://{address}"))
        });
        let url = url.expect("the banner names an address");
        Self { child, url, folder: folder.to_owned() }
    }

    /// Warms it up, and measures. Loads with different numbers have different prompts.
    pub(crate) fn measure(
        &self,
        load: &Load,
        number: usize,
        requests: usize,
        vocab: usize,
    ) -> Measured {
        let requests = if load.at_once == 1 { requests.div_ceil(FEWER) } else { requests };
        self.put(load, WARM_UP_REQUESTS.min(requests), 2 * number, vocab);
        let before = self.cpu();
        let result = self.put(load, requests, 2 * number + 1, vocab);
        let after = self.cpu();
        // The mean of nothing is -0.0.
        let value = |key: &str| result[key].as_f64().unwrap_or_default() + 0.0;
        Measured {
            tokens_per_s: value("total_token_throughput"),
            requests_per_s: value("request_throughput"),
            ttft_ms: value("mean_ttft_ms"),
            tpot_ms: value("mean_tpot_ms"),
            seconds: value("duration"),
            cpu: CpuSeconds { head: after.head - before.head, ranks: after.ranks - before.ranks },
        }
    }

    /// Sends `requests` of their own random tokens; the JSON of `playhouse bench`.
    fn put(&self, load: &Load, requests: usize, seed: usize, vocab: usize) -> Value {
        const RESULT: &str = "load.json";
        let status = Command::new(PROGRAM)
            .args(["bench", "--base-url", &self.url, "--temperature", "0", "--ignore-eos"])
            .args(["--num-prompts", &requests.to_string()])
            .args(["--max-concurrency", &load.at_once.to_string()])
            .args(["--random-input-len", &load.input.to_string()])
            .args(["--random-output-len", &load.output.to_string()])
            .args(["--random-vocab-size", &vocab.to_string()])
            .args(["--seed", &seed.to_string()])
            .args(["--no-progress", "--save-result", "--result-filename", RESULT, "--result-dir"])
            .arg(&self.folder)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("the binary starts").success(), "the load failed");
        let result = fs::read(self.folder.join(RESULT)).expect("the load has a result");
        let result: Value = serde_json::from_slice(&result).expect("it is JSON");
        let [input, output] =
            ["total_input_tokens", "total_output_tokens"].map(|key| result[key].as_u64());
        assert_eq!(input, Some((requests * load.input) as u64), "no prompt is lost");
        assert_eq!(output, Some((requests * load.output) as u64), "no token is lost");
        result
    }

    /// CPU time of all its processes until now.
    fn cpu(&self) -> CpuSeconds {
        let head = self.child.id();
        let processes = fs::read_dir("/proc").expect("there is /proc");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut cpu = CpuSeconds { head: 0.0, ranks: 0.0 };
        for pid in pids {
            match stat(pid) {
                Some((_, seconds)) if pid == head => cpu.head = seconds,
                Some((parent, seconds)) if parent == head => cpu.ranks += seconds,
                // Of others, or gone since.
                _ => {}
            }
        }
        cpu
    }

    /// Stops it as an operator does.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").arg(&pid).status().expect("kill runs");
        assert!(killed.success());
        assert!(self.child.wait().expect("it is ours").success(), "the server failed");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The parent of a process, and the CPU seconds of the process.
fn stat(pid: u32) -> Option<(u32, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Names may have spaces and parentheses; what follows the last has not.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields[11].parse::<u32>().ok()? + fields[12].parse::<u32>().ok()?;
    Some((fields[1].parse().ok()?, f64::from(ticks) / TICKS_PER_SECOND))
}
