//! A control group whose memory runs out when a test wants it to.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

/// Room that is left when the memory is limited, and what is taken of it at a time.
const ROOM: usize = 4 << 20;
const PART: usize = 1 << 20;

/// How long the kernel may take to be done with processes that were killed.
const PATIENCE: Duration = Duration::from_secs(180);

/// A control group with a limit of memory. Removed when dropped.
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    limit: &'static str,
    unlimited: &'static str,
    usage: &'static str,
}

/// A file in memory that counts for a control group. Removed when dropped.
struct Ballast(PathBuf);

// === impl MemoryGroup ===

impl MemoryGroup {
    /// `None` where this is not permitted.
    pub(crate) fn new() -> Option<Self> {
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
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.folder);
        command
    }

    /// Lets the memory run out until it is `over`, by what is of nobody who could be killed for it: bit by
    /// bit, so that one death is enough.
    pub(crate) fn run_out(&self, over: impl Fn() -> bool) {
        let used = fs::read_to_string(self.folder.join(self.usage)).expect("it is there");
        let used: usize = used.trim().parse().expect("a number");
        self.limit(&(used + ROOM).to_string());
        let ballast = Ballast(format!("/dev/shm/ballast-{}", std::process::id()).into());
        let mut filler = self
            .command()
            .args(["sh", "-c", "exec cat > \"$0\""])
            .arg(&ballast.0)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut into = filler.stdin.take().expect("it is piped");
        let part = vec![7; PART];
        while !over() {
            into.write_all(&part).expect("it is not the one that is killed");
        }
        self.limit(self.unlimited);
        drop((into, ballast));
        drop(filler.wait());
    }

    fn limit(&self, bytes: &str) {
        fs::write(self.folder.join(self.limit), bytes).expect("the group is ours");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its processes have been killed; the group is empty once the kernel is done with them.
        let started = SystemTime::now();
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
