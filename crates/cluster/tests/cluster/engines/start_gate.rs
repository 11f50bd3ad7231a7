//! Keeps replicas from serving for as long as a test wants.

use std::sync::{Arc, Condvar, Mutex};

use playhouse_cluster::{RankEvent, RankSink, RankStarter};

/// While the gate of a replica is closed, no rank of the replica becomes ready. All gates open when this is
/// dropped.
pub(crate) struct StartGate {
    closed: Arc<(Mutex<Vec<u32>>, Condvar)>,
}

// === impl StartGate ===

impl StartGate {
    /// Closed for these replicas.
    pub(crate) fn new(closed: &[u32]) -> Self {
        Self { closed: Arc::new((Mutex::new(closed.to_vec()), Condvar::new())) }
    }

    pub(crate) fn close(&self, replica: u32) {
        self.closed.0.lock().expect("nobody panics").push(replica);
    }

    pub(crate) fn open(&self, replica: u32) {
        self.closed.0.lock().expect("nobody panics").retain(|closed| *closed != replica);
        self.closed.1.notify_all();
    }

    /// Starters whose ranks wait behind it.
    pub(crate) fn before(&self, starter: RankStarter) -> RankStarter {
        let closed = Arc::clone(&self.closed);
        Arc::new(move |epoch, rank, sink| {
            let closed = Arc::clone(&closed);
            let held: RankSink = Arc::new(move |event| {
                if matches!(event, RankEvent::Ready) {
                    let is_closed = |replicas: &mut Vec<u32>| replicas.contains(&rank.replica.0);
                    let guard = closed.0.lock().expect("nobody panics");
                    drop(closed.1.wait_while(guard, is_closed).expect("nobody panics"));
                }
                sink(event);
            });
            starter(epoch, rank, held)
        })
    }
}

impl Drop for StartGate {
    fn drop(&mut self) {
        self.closed.0.lock().expect("nobody panics").clear();
        self.closed.1.notify_all();
    }
}
