//! Child: the process of a rank, as its parent on the same machine sees it.
//!
//! The parent reaps the process as soon as it dies. The process dies with its parent, because its
//! standard input, over which it received its identity, ends then.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use playhouse_wire::{Exit, ExitStatus};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{Level, error, info, warn};

use crate::head::HeadAddress;
use crate::oom_kills::{OomKills, SAMPLES};
use crate::rank::{Loss, LossCause};

/// The last lines of standard error that are kept for the reason of an exit.
const LAST_LINES: usize = 4;

/// The longest wait for the last output of a process that has ended; a grandchild may hold its pipe
/// open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The exit code of a Rust program whose main thread panicked.
const PANICKED: i32 = 101;

/// A running rank process. Dropping it kills the process.
#[derive(Debug)]
pub struct Child {
    pub(crate) pid: u32,
    /// Becomes `Some` when the process has ended.
    pub(crate) exited: watch::Receiver<Option<Exit>>,
    _alive: oneshot::Sender<()>,
}

/// Starts the process of a rank on this machine, given the name of the process, the address of the head,
/// and the bytes of its [identity](playhouse_link::Identity::from_bytes).
pub type ChildStarter = Arc<dyn Fn(&str, &HeadAddress, Vec<u8>) -> io::Result<Child> + Send + Sync>;

// === impl Child ===

impl Child {
    /// Returns a starter that runs children with the subcommand `shard` of `program`.
    #[must_use]
    pub fn starter(program: PathBuf) -> ChildStarter {
        Arc::new(move |name, head, identity| Self::spawn(&program, name, head, identity))
    }

    /// Wraps a process that other code has started. That code sends to `exited` when the process has
    /// ended, and ends the process when the returned receiver completes because the [`Child`] was
    /// dropped.
    #[must_use]
    pub fn new(pid: u32, exited: watch::Receiver<Option<Exit>>) -> (Self, oneshot::Receiver<()>) {
        let (_alive, dropped) = oneshot::channel();
        (Self { pid, exited, _alive }, dropped)
    }

    /// Starts `program shard` as `name` and tells it where the head is. Its standard input gives it
    /// the length of `identity` in four bytes, little-endian, and then `identity`.
    fn spawn(
        program: &Path,
        name: &str,
        head: &HeadAddress,
        identity: Vec<u8>,
    ) -> io::Result<Self> {
        let mut process = Command::new(program)
            .args(["shard", "--head", &head.to_string()])
            // The parent's environment may hold secrets, such as the API key.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_kept(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().unwrap_or_default();
        let (stdin, stderr) = (process.stdin.take(), process.stderr.take());
        let (ended, exited) = watch::channel(None);
        let (child, dropped) = Self::new(pid, exited);
        let name = name.to_owned();
        tokio::spawn(async move {
            let words = tokio::spawn(listen(stderr, name));
            let mut kills = OomKills::of(pid);
            let end = live(process, stdin, identity, dropped, &mut kills).await;
            let words = timeout(LAST_WORDS, words).await.ok().and_then(Result::ok);
            let mut words = words.unwrap_or_default();
            let status = match end {
                Ok(End { status, is_ours }) => match status.signal() {
                    Some(signal) => {
                        if signal == Signal::KILL.as_raw() && !is_ours {
                            // A process that the kernel has killed could not say so itself.
                            words.splice(0..0, kills.reason());
                        }
                        ExitStatus::Signal(signal)
                    }
                    None => ExitStatus::Code(status.code().unwrap_or_default()),
                },
                Err(why) => {
                    words = vec![format!("its parent lost it: {why}")];
                    ExitStatus::Code(-1)
                }
            };
            ended.send_replace(Some(Exit { pid, status, reason: words.join(" / ") }));
        });
        Ok(child)
    }
}

/// Returns whether a variable is passed on to rank processes: those of logs, libraries and devices are.
fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["RUST_", "LD_", "CUDA_", "NCCL_", "NVIDIA_"].iter().any(|kept| name.starts_with(kept))
}

/// The end of a process.
struct End {
    status: std::process::ExitStatus,
    /// Whether its parent killed it because it was no longer wanted.
    is_ours: bool,
}

/// Hands over the identity, then waits for the process to end or to be no longer wanted.
async fn live(
    mut process: Process,
    stdin: Option<ChildStdin>,
    identity: Vec<u8>,
    mut dropped: oneshot::Receiver<()>,
    kills: &mut OomKills,
) -> io::Result<End> {
    // Held open until the end: the process sees by it that its parent lives.
    let mut stdin = stdin;
    let ended = async {
        if let Some(stdin) = &mut stdin {
            // A process that is gone already says more by its status.
            let length = u32::try_from(identity.len()).unwrap_or(u32::MAX);
            drop(stdin.write_all(&length.to_le_bytes()).await);
            drop(stdin.write_all(&identity).await);
            drop(stdin.flush().await);
        }
        process.wait().await
    };
    let mut samples = interval(SAMPLES);
    samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
    {
        tokio::pin!(ended);
        loop {
            tokio::select! {
                biased;
                status = &mut ended => return Ok(End { status: status?, is_ours: false }),
                _ = &mut dropped => break,
                _ = samples.tick() => kills.look(),
            }
        }
    }
    process.start_kill()?;
    Ok(End { status: process.wait().await?, is_ours: true })
}

/// Passes the lines of a process's standard error on, and returns the last of them.
async fn listen(stderr: Option<impl AsyncRead + Unpin>, name: String) -> Vec<String> {
    let mut last = VecDeque::with_capacity(LAST_LINES);
    let Some(stderr) = stderr else { return Vec::new() };
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        match level(&line) {
            (Level::ERROR, line) => error!(shard = name, "{line}"),
            (Level::WARN, line) => warn!(shard = name, "{line}"),
            (_, line) => info!(shard = name, "{line}"),
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last.into()
}

/// Splits a line into the log level with which it begins, and the rest. Any other line, such as the
/// message of a panic, has the level INFO.
fn level(line: &str) -> (Level, &str) {
    let levels = [("ERROR ", Level::ERROR), ("WARN ", Level::WARN), ("INFO ", Level::INFO)];
    let rest = |name| line.trim_start().strip_prefix(name);
    let found = levels.iter().find_map(|(name, level)| Some((*level, rest(name)?)));
    found.unwrap_or((Level::INFO, line))
}

/// Describes the end of a process, for a person.
fn ending(exit: &Exit) -> String {
    let Exit { pid, status, reason } = exit;
    let how = match status {
        ExitStatus::Code(code) => format!("process {pid} exited with code {code}"),
        ExitStatus::Signal(signal) => format!("process {pid} was killed by signal {signal}"),
    };
    if reason.is_empty() { how } else { format!("{how}: {reason}") }
}

impl From<&Exit> for Loss {
    fn from(exit: &Exit) -> Self {
        // Signals that a process brings on itself, and the code of a panic.
        let of_step = match exit.status {
            ExitStatus::Code(code) => code == PANICKED,
            ExitStatus::Signal(signal) => {
                let own = [Signal::ILL, Signal::ABORT, Signal::BUS, Signal::FPE, Signal::SEGV];
                own.iter().any(|own| own.as_raw() == signal)
            }
        };
        let cause = if of_step { LossCause::Step } else { LossCause::Outside };
        Self { reason: ending(exit), cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_line_is_not_said_twice() {
        assert_eq!(level(" WARN link: the head is gone"), (Level::WARN, "link: the head is gone"));
        assert_eq!(level("ERROR a: b"), (Level::ERROR, "a: b"));
        assert_eq!(level(" INFO a: b"), (Level::INFO, "a: b"));
        for line in ["thread 'main' panicked at x.rs:1:", "", "  indented", "WARNING"] {
            assert_eq!(level(line), (Level::INFO, line));
        }
    }
}
