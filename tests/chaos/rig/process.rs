//! Processes of this machine: ours, and those that ours have started.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::patience::wait_until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_playhouse");
pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-a-test";

/// A running `playhouse`. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
    /// The file with the standard error of the process.
    log: PathBuf,
}

// === impl Process ===

impl Process {
    /// Starts the program, in a network namespace if one is named. What it logs is added to `log`:
    /// a pipe that nobody reads would stop it.
    pub(crate) fn start(namespace: Option<&str>, args: &[&str], log: &Path) -> Self {
        match namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]);
                Self::start_by(command, args, log)
            }
            None => Self::run(Command::new(PROGRAM), args, log),
        }
    }

    /// Starts a process as [`start`](Self::start) does, by a program that becomes it by `exec`.
    pub(crate) fn start_by(mut program: Command, args: &[&str], log: &Path) -> Self {
        program.arg(PROGRAM);
        Self::run(program, args, log)
    }

    fn run(mut command: Command, args: &[&str], log: &Path) -> Self {
        let errors = File::options().create(true).append(true).open(log).expect("a log file");
        command.args(args).env("PLAYHOUSE_ADMIN_TOKEN", ADMIN_TOKEN);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().expect("the binary starts");
        let said = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, said, log: log.to_owned() }
    }

    /// Returns the output up to the line with `mark`.
    pub(crate) fn hear(&mut self, mark: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(mark) {
            let read = self.said.read_line(&mut heard).expect("UTF-8");
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(read > 0, "no `{mark}` in:\n{heard}\n{}", log());
        }
        heard
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        signal(self.pid(), Signal::TERM);
        self.end()
    }

    /// Waits until it has stopped.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("a process has stopped", || {
            status = self.child.try_wait().expect("ours");
            status.is_some()
        });
        status.expect("it has stopped")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal, if there is such a process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let _ = kill_process(pid, signal);
}

/// Returns whether a process runs. A zombie has ended; its parent has not reaped it yet.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

/// Returns whether a process runs the program under test, and is no later process with the same id.
pub(crate) fn is_ours(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "playhouse")
}

/// Returns whether a process renders the chat template of a checkpoint, and is no rank.
pub(crate) fn renders(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|&byte| byte == 0).nth(1) == Some(b"template")
}

/// A process, and all that it and its children have started.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    family
}

/// Memory that a process occupies, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("process {pid} says no VmRSS"))
}
