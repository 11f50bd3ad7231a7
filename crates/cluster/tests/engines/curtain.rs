//! Keeps replicas from serving for as long as a test wants.

use std::sync::{Arc, Condvar, Mutex};

use playhouse_cluster::{RankEvent, RankSink, RankStarter};

/// While it is down for a replica, no rank of it becomes ready. Goes up when dropped.
pub(crate) struct Curtain {
    down: Arc<(Mutex<Vec<u32>>, Condvar)>,
}

// === impl Curtain ===

impl Curtain {
    /// Down for these replicas.
    pub(crate) fn new(down: &[u32]) -> Self {
        Self { down: Arc::new((Mutex::new(down.to_vec()), Condvar::new())) }
    }

    pub(crate) fn lower(&self, replica: u32) {
        self.down.0.lock().expect("nobody panics").push(replica);
    }

    pub(crate) fn raise(&self, replica: u32) {
        self.down.0.lock().expect("nobody panics").retain(|down| *down != replica);
        self.down.1.notify_all();
    }

    /// Starters whose ranks wait behind it.
    pub(crate) fn before(&self, starter: RankStarter) -> RankStarter {
        let down = Arc::clone(&self.down);
        Arc::new(move |epoch, rank, sink| {
            let down = Arc::clone(&down);
            let held: RankSink = Arc::new(move |event| {
                if matches!(event, RankEvent::Ready) {
                    let is_down = |down: &mut Vec<u32>| down.contains(&rank.replica.0);
                    let guard = down.0.lock().expect("nobody panics");
                    drop(down.1.wait_while(guard, is_down).expect("nobody panics"));
                }
                sink(event);
            });
            starter(epoch, rank, held)
        })
    }
}

impl Drop for Curtain {
    fn drop(&mut self) {
        self.down.0.lock().expect("nobody panics").clear();
        self.down.1.notify_all();
    }
}
