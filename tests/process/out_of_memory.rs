//! What happens when memory runs out: ranks go before the head, and their reason says so.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::cluster::Folder;
use crate::hangs::not_tested;
use crate::ranks::{children, lives, long, tokens};
use crate::server::{PATIENCE, Server};

/// Room that is left when the memory is limited, and what is taken of it at a time.
const ROOM: usize = 4 << 20;
const PART: usize = 1 << 20;

fn oom_score_adj(pid: u32) -> i32 {
    let value = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it lives");
    value.trim().parse().expect("a number")
}

#[test]
fn ranks_volunteer_before_the_head_when_memory_runs_out() {
    let server = Server::start(&["-tp", "2"]);
    let head = oom_score_adj(server.pid());
    for rank in children(server.pid()) {
        assert_eq!(oom_score_adj(rank), (head + 500).min(1000));
    }
}

/// A control group with a limit of memory. Removed when dropped.
struct Limited {
    folder: PathBuf,
    limit: &'static str,
    unlimited: &'static str,
    usage: &'static str,
}

/// A file in memory that counts for a control group. Removed when dropped.
struct Ballast(PathBuf);

impl Limited {
    /// `None` where this is not permitted.
    fn new() -> Option<Self> {
        let name = format!("playhouse-test-{}", std::process::id());
        let older = Self {
            folder: Path::new("/sys/fs/cgroup/memory").join(&name),
            limit: "memory.limit_in_bytes",
            unlimited: "-1",
            usage: "memory.usage_in_bytes",
        };
        let newer = Self {
            folder: Path::new("/sys/fs/cgroup").join(&name),
            limit: "memory.max",
            unlimited: "max",
            usage: "memory.current",
        };
        let mut kinds = [newer, older].into_iter();
        let made = kinds.find(|group| {
            fs::create_dir(&group.folder).is_ok() && group.folder.join(group.limit).exists()
        })?;
        // Memory that is written to a disk has not run out. Either file may be missing.
        drop(fs::write(made.folder.join("memory.swap.max"), "0"));
        drop(fs::write(made.folder.join("memory.swappiness"), "0"));
        Some(made)
    }

    /// A command that goes on in this group.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.folder);
        command
    }

    fn used(&self) -> usize {
        let used = fs::read_to_string(self.folder.join(self.usage)).expect("it is there");
        used.trim().parse().expect("a number")
    }

    fn limit(&self, bytes: &str) {
        fs::write(self.folder.join(self.limit), bytes).expect("the group is ours");
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Its processes have been killed; the group is empty once the kernel is done with them.
        let started = std::time::SystemTime::now();
        while fs::remove_dir(&self.folder).is_err()
            && self.folder.exists()
            && started.elapsed().is_ok_and(|waited| waited < PATIENCE)
        {
            thread::yield_now();
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// The kernel kills a rank, not the head, and the replica is back with what it had said.
#[test]
fn memory_that_runs_out_costs_a_rank_and_the_reason_says_so() {
    let expected = tokens(&Server::start(&["-tp", "2"]), &long(1));
    let Some(group) = Limited::new() else {
        return not_tested("no control group with a limit of memory can be made here");
    };
    let folder = Folder::new();
    let log = folder.0.join("log");
    let server = Server::start_by(group.command(), &["-tp", "2"], &log);
    let ranks = children(server.pid());
    let ballast = Ballast(format!("/dev/shm/ballast-{}", std::process::id()).into());
    group.limit(&(group.used() + ROOM).to_string());
    // Memory of nobody who could be killed for it: bit by bit, so that one death is enough.
    let mut filler = group
        .command()
        .args(["sh", "-c", "exec cat > \"$0\""])
        .arg(&ballast.0)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut into = filler.stdin.take().expect("it is piped");
    let part = vec![7; PART];
    while ranks.iter().all(|&rank| lives(rank)) {
        into.write_all(&part).expect("it is not the one that is killed");
        assert!(lives(server.pid()), "ranks come first");
    }
    group.limit(group.unlimited);
    drop((into, ballast));
    drop(filler.wait());
    server.wait_until("it serves again", |server| {
        server.metric("playhouse_replica_restarts_total") > 0.0
            && server.metric("playhouse_replica_healthy") == 1.0
    });
    let after = children(server.pid());
    assert!(after.iter().any(|rank| !ranks.contains(rank)), "one was started anew: {after:?}");
    let said = fs::read_to_string(&log).expect("a log");
    let reason = said.lines().find(|line| line.contains("restarting")).expect("a reason");
    assert!(reason.contains("was killed by signal 9: killed for want of memory"), "{reason}");
    assert_eq!(tokens(&server, &long(1)), expected);
    drop(server);
}
