//! What is neither dead nor well: a folder that is away for a while, and a rank that gets a part of its core
//! (**G1**, **G2**).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use crate::rig::fault::Fault;
use crate::rig::house::{At, House};
use crate::rig::load::{DEMO, Model, REFERENCE};
use crate::rig::patience::{await_for, wait_until};
use crate::rig::process::signal;
use crate::scenario::Scenario;

/// Restarts that used to be all that a replica had.
const RESTARTS: u64 = 7;

/// A copy of a checkpoint that can be taken away. Removed when dropped.
struct Checkpoint {
    here: PathBuf,
    away: PathBuf,
}

// === impl Checkpoint ===

impl Checkpoint {
    fn copy(folder: &str) -> Self {
        let name = format!("playhouse-chaos-checkpoint-{}", std::process::id());
        let here = std::env::temp_dir().join(&name);
        fs::create_dir_all(&here).expect("the temporary folder can be written");
        for file in fs::read_dir(folder).expect("the checkpoint is there") {
            let file = file.expect("it can be read");
            fs::copy(file.path(), here.join(file.file_name())).expect("it can be copied");
        }
        Self { away: here.with_extension("away"), here }
    }

    fn take_away(&self) {
        fs::rename(&self.here, &self.away).expect("it is here");
    }

    fn bring_back(&self) {
        fs::rename(&self.away, &self.here).expect("it is away");
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.here));
        drop(fs::remove_dir_all(&self.away));
    }
}

fn text(path: &Path) -> &'static str {
    path.to_str().expect("plain").to_owned().leak()
}

/// The only replica cannot load for longer than its quick restarts last, and no stream notices.
#[test]
fn the_checkpoint_is_away_while_a_rank_restarts() {
    let checkpoint = Checkpoint::copy(REFERENCE.folder.expect("a folder"));
    let model = Model { folder: Some(text(&checkpoint.here)), ..REFERENCE };
    let mut scenario = Scenario::open(&model, House::local(&model, &["-tp", "2"]));
    scenario.during_the_load(|house| {
        let before = house.epochs()[0];
        checkpoint.take_away();
        Fault::KillShard(At { replica: 0, stage: 0, tensor: 1 }).strike(house);
        wait_until("its quick restarts are over", || house.epochs()[0] >= before + RESTARTS);
        checkpoint.bring_back();
    });
    scenario.goes_on();
    scenario.close();
}

/// Stops a process for most of the time. It goes on when this is dropped.
struct Throttled {
    pid: u32,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Throttled ===

impl Throttled {
    fn begin(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let pause = |millis| {
                let _ = await_for(Duration::from_millis(millis), || false);
            };
            while !ends.load(Ordering::Relaxed) {
                signal(pid, Signal::STOP);
                // Shorter than its link may be silent.
                pause(300);
                signal(pid, Signal::CONT);
                pause(5);
            }
        });
        Self { pid, over, thread: Some(thread) }
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
        signal(self.pid, Signal::CONT);
    }
}

/// A rank that computes a hundredth of what it should: its requests go to the replica that is well.
#[test]
fn a_rank_has_a_small_part_of_its_core() {
    let mut scenario = Scenario::open(&DEMO, House::local(&DEMO, &["-dp", "2"]));
    let throttled = scenario.during_the_load(|house| {
        let rank = house.shard(At { replica: 0, stage: 0, tensor: 0 }).expect("it runs");
        let throttled = Throttled::begin(rank);
        wait_until("it is found slow", || house.metric("playhouse_replica_outlier") == 1.0);
        throttled
    });
    assert_eq!(scenario.house.metric("playhouse_replica_restarts_total"), 0.0, "nothing was lost");
    drop(throttled);
    scenario.goes_on();
    scenario.close();
}
