//! Ranks that die while their group joins: what that costs the others, what it leaves behind, and whose
//! reason is shown.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use crate::hangs::not_tested;
use crate::ranks::{children, kill, lives, long, tokens};
use crate::server::{BINARY, Server};

/// Times to try to stop a rank between two of its messages.
const ATTEMPTS: usize = 10;

/// Two ranks: one waits for the other in a join, and that one is stopped before it.
struct Caught {
    server: Server,
    waiting: u32,
    stopped: u32,
    /// The shared memory of the group that is not complete.
    file: PathBuf,
}

/// Kills a rank of a server, so that another one joins its groups anew, and stops the other before it
/// does. The one that is new takes longer, so the other has said that it is ready to join, and is not told
/// to for a while.
fn catch() -> Caught {
    for _ in 0..ATTEMPTS {
        let server = Server::start(&["-tp", "2"]);
        let before = children(server.pid());
        let [victim, stopped] = before[..] else { panic!("two ranks: {before:?}") };
        assert_eq!(listening(stopped), 0, "it listens only before it joins");
        kill(victim, "KILL");
        let waiting = loop {
            let now = children(server.pid());
            if let Some(new) = now.into_iter().find(|pid| !before.contains(pid)) {
                break new;
            }
            thread::yield_now();
        };
        while listening(stopped) != 2 {
            thread::yield_now();
        }
        kill(stopped, "STOP");
        // It may have been too late, or too early: then it is missed, and killed.
        while lives(stopped) {
            if let Some(file) = named(waiting).filter(|_| named(stopped).is_none()) {
                return Caught { server, waiting, stopped, file };
            }
            thread::yield_now();
        }
    }
    panic!("no rank could be stopped in time");
}

/// Sockets on which a process awaits connections.
fn listening(pid: u32) -> usize {
    const LISTEN: &str = "0A";
    let held = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let held = held.filter_map(|fd| fs::read_link(fd.path()).ok());
    let held: Vec<_> = held.map(|link| link.display().to_string()).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let sockets = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(3) == Some(&LISTEN)).then(|| format!("socket:[{}]", fields[9]))
    });
    sockets.filter(|socket| held.contains(socket)).count()
}

/// The shared memory that a process has and that has a name.
fn named(pid: u32) -> Option<PathBuf> {
    let held = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let held = held.filter_map(|fd| fs::metadata(fd.path()).ok());
    let held: Vec<_> = held.map(|about| (about.dev(), about.ino())).collect();
    let mut files = fs::read_dir("/dev/shm").ok()?.flatten().map(|file| file.path());
    files.find(|file| fs::metadata(file).is_ok_and(|it| held.contains(&(it.dev(), it.ino()))))
}

/// Waits until the third epoch serves: the second one ended in its join.
fn until_serving(server: &Server) {
    server.wait_until("it serves again", |server| {
        server.metric("playhouse_replica_epoch") == 3.0
            && server.metric("playhouse_replica_healthy") == 1.0
    });
    let ranks = children(server.pid());
    assert!(ranks.iter().all(|&rank| named(rank).is_none()), "nothing is left of any join");
}

#[test]
fn a_rank_that_dies_in_a_join_costs_the_other_nothing() {
    let expected = tokens(&Server::start(&[]), &long(1));
    let Caught { server, waiting, stopped, file } = catch();
    kill(stopped, "KILL");
    until_serving(&server);
    assert!(children(server.pid()).contains(&waiting), "it has kept its weights");
    assert!(!file.exists());
    assert_eq!(tokens(&server, &long(1)), expected);
}

/// A rank that nobody can tell from a dead one, until it is killed for that.
#[test]
fn a_rank_that_is_silent_in_a_join_costs_the_other_nothing() {
    let Caught { server, waiting, stopped, file } = catch();
    until_serving(&server);
    assert!(!lives(stopped));
    assert!(children(server.pid()).contains(&waiting), "it has kept its weights");
    assert!(!file.exists());
}

/// Nobody is left who could remove it, but those who start next.
#[test]
fn ranks_that_all_die_in_a_join_leave_no_memory_behind() {
    let Caught { server, waiting, stopped, file } = catch();
    kill(waiting, "KILL");
    kill(stopped, "KILL");
    until_serving(&server);
    assert!(!file.exists());
}

/// One of two ranks finds room. The other says what is wrong, and it is that which is shown.
#[test]
fn the_reason_of_a_failed_join_is_that_of_the_rank_that_failed() {
    let script = "mount -t tmpfs -o size=700k tmpfs /dev/shm && exec \"$@\"";
    let mut server = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", BINARY, "serve", "-tp", "2", "--port", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let mut log = BufReader::new(server.stderr.take().expect("it is piped")).lines();
    let (mut heard, mut reasons) = (String::new(), Vec::new());
    while let Some(Ok(line)) = log.next() {
        heard += &line;
        heard.push('\n');
        if line.contains("restarting") || line.contains("replica failed") {
            reasons.push(line.clone());
        }
        if line.contains("replica failed") {
            break;
        }
    }
    drop(server.kill());
    drop(server.wait());
    if reasons.is_empty() && (heard.contains("unshare") || heard.contains("mount")) {
        return not_tested("no file system may be mounted here");
    }
    assert!(reasons.len() >= 2, "it is tried again, then given up: {heard}");
    for reason in &reasons {
        assert!(reason.contains("no room in /dev/shm for the 524288 bytes"), "{reason}");
        assert!(reason.contains("--shm-size"), "{reason}");
    }
}
