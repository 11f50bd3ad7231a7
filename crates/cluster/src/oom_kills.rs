//! Detects whether the kernel killed a process because memory ran out. The process is not told, and its
//! parent sees a `SIGKILL` like any other; the kernel only counts such kills, for each control group.
//!
//! - **OO-1** the kernel counts as the killer if its count rose within two of [`SAMPLES`] before the
//!   process ended, and no other sender of the signal is known.
//! - **OO-2** the count is that of the process's own control group (or of the nearest group around it
//!   that can be seen), whichever limit ran out. Only where there is no such group is it the count of
//!   the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time between two samples of the count.
pub(crate) const SAMPLES: Duration = Duration::from_secs(5);

/// The kernel's count of killed processes, sampled for the control group of one process.
#[derive(Debug)]
pub(crate) struct OomKills {
    pid: u32,
    /// The last two samples, the older one first. A large process takes a while to end, so that the
    /// newer sample may already include its kill.
    looks: Option<[Look; 2]>,
}

/// A sample of one of the kernel's counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    counter: PathBuf,
    kills: u64,
}

/// The folder of control groups.
const GROUPS: &str = "/sys/fs/cgroup";
/// The file with the counts of the machine.
const MACHINE: &str = "/proc/vmstat";

// === impl OomKills ===

impl OomKills {
    /// Begins to watch a process that is running.
    pub(crate) fn of(pid: u32) -> Self {
        let look = Look::at(pid);
        Self { pid, looks: look.map(|look| [look.clone(), look]) }
    }

    /// Takes another sample, while the process runs.
    pub(crate) fn look(&mut self) {
        let Some(now) = Look::at(self.pid) else { return };
        self.looks = Some(match self.looks.take() {
            Some([_, before]) if before.counter == now.counter => [before, now],
            // The process is in another group than before, whose earlier count is not known.
            _ => [now.clone(), now],
        });
    }

    /// Returns why the process was killed, for a person, if the count has risen (**OO-1**).
    pub(crate) fn reason(&self) -> Option<String> {
        let [before, _] = self.looks.as_ref()?;
        let now = kills(&before.counter)?;
        (now > before.kills).then(|| {
            let counter = before.counter.display();
            format!(
                "killed for want of memory (`oom_kill` of {counter} rose from {} to {now}); give it \
                 more memory, or use less: --kv-cache-memory, more ranks, a smaller model",
                before.kills
            )
        })
    }
}

// === impl Look ===

impl Look {
    fn at(pid: u32) -> Option<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Self::among(&groups, Path::new(GROUPS), Path::new(MACHINE))
    }

    /// Returns the count for a process in these groups, each a line `number:controllers:path`.
    fn among(groups: &str, mounted: &Path, machine: &Path) -> Option<Self> {
        let counters = groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let (root, name) = if controllers.is_empty() {
                (mounted.to_owned(), "memory.events")
            } else if controllers.split(',').any(|controller| controller == "memory") {
                (mounted.join("memory"), "memory.oom_control")
            } else {
                return None;
            };
            // In a container the path may be that of the machine, of which only the end is mounted.
            let path = Path::new(path.trim_start_matches('/')).to_owned();
            Some((root, name, path))
        });
        let seen = counters.filter_map(|(root, name, path)| {
            let around = path.ancestors().map(|group| root.join(group).join(name));
            around.filter_map(Self::of).next()
        });
        seen.chain(Self::of(machine.to_owned())).next()
    }

    fn of(counter: PathBuf) -> Option<Self> {
        let kills = kills(&counter)?;
        Some(Self { counter, kills })
    }
}

/// Reads the count from a file whose lines are a name and a number.
fn kills(counter: &Path) -> Option<u64> {
    let text = fs::read_to_string(counter).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with files, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("playhouse-oom-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn write(&self, file: &str, text: &str) -> PathBuf {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().expect("in the folder")).expect("there is room");
            fs::write(&path, text).expect("there is room");
            path
        }

        fn look(&self, groups: &str) -> Option<(String, u64)> {
            let look = Look::among(groups, &self.0, &self.0.join("vmstat"))?;
            let counter = look.counter.strip_prefix(&self.0).expect("in the folder");
            Some((counter.display().to_string(), look.kills))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// **OO-2**
    #[test]
    fn the_count_is_that_of_the_nearest_group_that_can_be_seen() {
        let folder = Folder::new("nearest");
        assert_eq!(folder.look("0::/\n"), None);
        folder.write("vmstat", "pgfault 12\noom_kill 7\n");
        assert_eq!(folder.look("0::/\n"), Some(("vmstat".to_owned(), 7)));
        assert_eq!(folder.look(""), Some(("vmstat".to_owned(), 7)));

        // The newer hierarchy; a group of that name in another one does not matter.
        let events = "low 0\nhigh 0\nmax 21\noom 3\noom_kill 2\noom_group_kill 9\n";
        folder.write("a.slice/b.scope/memory.events", events);
        let groups = "1:name=systemd:/else\n0::/a.slice/b.scope\n";
        let seen = Some(("a.slice/b.scope/memory.events".to_owned(), 2));
        assert_eq!(folder.look(groups), seen);
        assert_eq!(folder.look("0::/a.slice/b.scope/hidden/deeper\n"), seen);

        // The older one, whose path of a container is that of the machine.
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n";
        folder.write("memory/memory.oom_control", control);
        let groups = "5:cpu,cpuacct:/x\n4:memory:/docker/0123\n0::/\n";
        assert_eq!(folder.look(groups), Some(("memory/memory.oom_control".to_owned(), 5)));
    }

    /// **OO-1**
    #[test]
    fn a_kill_is_the_kernels_if_the_count_rose_lately() {
        let folder = Folder::new("decision");
        let counter = folder.write("memory.events", "oom_kill 1\n");
        let look = |kills| Look { counter: counter.clone(), kills };
        let watch = |older, newer| OomKills { pid: 0, looks: Some([look(older), look(newer)]) };
        assert_eq!(watch(1, 1).reason(), None, "it was somebody else's, long ago");
        let reason = watch(0, 1).reason().expect("since the older look");
        assert!(reason.starts_with("killed for want of memory"), "{reason}");
        assert!(reason.contains("rose from 0 to 1"), "{reason}");
        assert!(watch(0, 0).reason().is_some());
        assert_eq!(OomKills { pid: 0, looks: None }.reason(), None, "nothing is known");
        folder.write("memory.events", "populated 1\n");
        assert_eq!(watch(0, 0).reason(), None);
    }

    #[test]
    fn this_machine_counts() {
        let me = OomKills::of(std::process::id());
        let [look, _] = me.looks.as_ref().expect("Linux counts since 4.13");
        assert!(look.counter.exists());
        assert_eq!(me.reason(), None, "nobody was killed meanwhile");
    }
}
