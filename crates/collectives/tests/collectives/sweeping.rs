//! What is left in `/dev/shm` when ranks are killed while they join, and when there is no room.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use playhouse_collectives::{AbortHandle, CollectiveError, Group, JoinError, sweep};

use crate::processes::Rank;
use crate::ranks::{Moment, PATIENCE, SMALL, blank, cast, first_of, values};

const FOLDER: &str = "/dev/shm";

/// The shared memory that a process has and that still has a name: its ranks have not all come.
fn named(pid: u32) -> Option<PathBuf> {
    let held = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let held: Vec<_> = held.filter_map(|fd| fs::metadata(fd.path()).ok()).collect();
    let held: Vec<_> = held.iter().map(|about| (about.dev(), about.ino())).collect();
    let mut files = fs::read_dir(FOLDER).unwrap().flatten().map(|file| file.path());
    files.find(|file| {
        file.to_str().is_some_and(|name| name.contains("/playhouse-"))
            && fs::metadata(file).is_ok_and(|about| held.contains(&(about.dev(), about.ino())))
    })
}

/// Waits until a process waits for the other ranks of its group, and returns the file that it has.
fn until_waiting(pid: u32) -> PathBuf {
    loop {
        if let Some(file) = named(pid).filter(|_| all_sleep(pid)) {
            return file;
        }
        thread::yield_now();
    }
}

fn all_sleep(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let mut states = tasks.map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
    });
    states.all(|sleeps| sleeps)
}

fn kill(rank: &mut Rank) {
    rank.child.kill().unwrap();
    rank.child.wait().unwrap();
}

/// **SG-4**
#[test]
fn a_sweep_removes_what_killed_ranks_left_and_nothing_that_lives() {
    let (dead, live) = (cast(&[0, 0]), cast(&[0, 0]));
    let mut killed = Rank::spawn(&dead.spec, 1);
    let left = until_waiting(killed.child.id());
    kill(&mut killed);
    assert!(left.exists(), "nobody was there to remove it");
    let waiting = Rank::spawn(&live.spec, 1);
    let used = until_waiting(waiting.child.id());
    // Names that look like ours, of what is no memory: opening the pipe would block.
    let strange = [0, 1].map(|index| {
        let number = u64::from(std::process::id()) << 8 | index;
        PathBuf::from(format!("{FOLDER}/playhouse-{number:032x}"))
    });
    assert!(Command::new("mkfifo").arg(&strange[0]).status().unwrap().success());
    std::os::unix::fs::symlink(&used, &strange[1]).unwrap();
    let other = Path::new(FOLDER).join(format!("playhouse-{}-of-a-person", std::process::id()));
    fs::write(&other, "kept").unwrap();

    assert!(sweep().unwrap() >= 1);
    assert!(!left.exists() && used.exists() && other.exists());
    for file in &strange {
        assert!(file.symlink_metadata().is_ok(), "{}", file.display());
        fs::remove_file(file).unwrap();
    }
    fs::remove_file(other).unwrap();
    // What lives still comes together.
    let group = Group::join(&live.spec, 0, None, &AbortHandle::new()).unwrap();
    assert!(!used.exists());
    let mut output = blank::<half::bf16>(40_009);
    group.all_reduce(&values::<half::bf16>(0, 40_009), &mut output).unwrap();
    waiting.ends_well();
}

/// What a killed rank wrote of itself is not taken for the truth: it could never be that rank again.
#[test]
fn a_group_can_be_joined_after_its_ranks_were_killed() {
    let cast = cast(&[0, 0]);
    let mut killed = Rank::spawn(&cast.spec, 1);
    let left = until_waiting(killed.child.id());
    kill(&mut killed);
    cast.play(|group| group.barrier().unwrap());
    assert!(!left.exists());
}

/// **JO-1**, without anybody who aborts.
#[test]
fn a_rank_that_is_killed_while_it_joins_ends_the_join_of_its_neighbours() {
    let mut cast = cast(&[0, 0, 0]);
    cast.spec.timeout = 10 * PATIENCE;
    let mut victim = Rank::spawn(&cast.spec, 1);
    let file = until_waiting(victim.child.id());
    thread::scope(|scope| {
        let join = || Group::join(&cast.spec, 2, None, &AbortHandle::new()).unwrap_err();
        let twins = [scope.spawn(join), scope.spawn(join)];
        let (refused, mut waits) = first_of(twins.into());
        assert!(matches!(refused, JoinError::Refused { rank: 2, .. }), "{refused}");
        let killed = Moment::now();
        kill(&mut victim);
        let error = waits.remove(0).join().unwrap();
        let cause = CollectiveError::PeerLost { rank: 1 };
        assert_eq!(error, JoinError::Ended { rank: 2, cause });
        assert!(error.is_of_another_rank());
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    });
    assert!(!file.exists(), "whoever is left removes it");
}

/// Where there is as little room as `/dev/shm` has now.
#[test]
#[ignore = "a process that another test starts"]
fn without_room() {
    let Ok(pages) = std::env::var(PAGES) else { return };
    let pages: usize = pages.parse().unwrap();
    let cast = cast(&[0, 0]);
    let outcomes = cast.try_play(|joined| match joined {
        Ok(group) => {
            // Every page is written to, round and round: one without room would end the process.
            let mut output = vec![0u8; 16 * SMALL];
            for _ in 0..16 {
                let input = vec![1; 8 * SMALL];
                group.all_gather_v(&input, &[8 * SMALL; 2], &mut output).unwrap();
            }
            group.barrier().unwrap();
            None
        }
        Err(error) => Some(error),
    });
    let left: Vec<_> = fs::read_dir(FOLDER).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    if outcomes.iter().all(Option::is_none) {
        return println!("\njoined {pages}");
    }
    for (rank, outcome) in outcomes.iter().enumerate() {
        let error = outcome.as_ref().unwrap_or_else(|| panic!("rank {rank} joined alone"));
        if !error.is_of_another_rank() {
            println!("\nfailed {error}");
        }
    }
}

const PAGES: &str = "PLAYHOUSE_TEST_PAGES";

/// **SG-5**, **CO-6**, and no file is left by those who found no room.
#[test]
fn a_full_file_system_is_an_error_of_joining() {
    let mut joined = 0;
    for pages in 1..=12 {
        let script = format!("mount -t tmpfs -o size={}k tmpfs {FOLDER} && exec \"$@\"", 4 * pages);
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "sweeping::without_room", "--ignored", "--nocapture"])
            .env(PAGES, pages.to_string())
            .output();
        let output = match child {
            Ok(output) if !String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
                return not_tested(&String::from_utf8_lossy(&output.stderr));
            }
            Ok(output) => output,
            Err(error) => return not_tested(&error.to_string()),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // A signal is what this must not end with.
        assert!(output.status.success(), "{pages} pages: {:?}\n{said}", output.status);
        let is_refused = said.contains("failed no room in /dev/shm for the ")
            && said.contains("No space left on device")
            && said.contains("--shm-size");
        let is_joined = said.contains(&format!("joined {pages}\n"));
        assert!(is_refused != is_joined, "{pages} pages: {said}");
        joined += usize::from(is_joined);
    }
    assert!((1..=10).contains(&joined), "{joined} of 12");
}

/// Past the capture of the test harness: a test that did not run says so.
fn not_tested(why: &str) {
    let text = format!("\n*** NOT TESTED: no file system may be mounted here: {why} ***\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
