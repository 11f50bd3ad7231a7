//! The shutdown of a head. `--shutdown-timeout` is the time from the signal to the end of the process,
//! and each part of the shutdown has its share:
//!
//! | until | |
//! |---|---|
//! | a reserve before the end: a quarter of the time, 5 s at most | accepted requests run on |
//! | a fifth of the reserve later | clients read that their requests have ended |
//! | two fifths later | actors, rank processes and connections of nodes end |
//! | the end | the spans of traces are sent |
//!
//! A part that takes less leaves its time to the next. The process ends in time even if a part hangs.

use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use playhouse_cluster::Cluster;
use playhouse_gateway::{Drained, Limits};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::error::CliError;
use crate::signals::{Signals, StopSignal};

/// The maximum reserve.
const RESERVE_MAX: Duration = Duration::from_secs(5);

/// The exit status of a process that had to be ended, unless every request had ended by then.
const FAILURE: i32 = 1;

/// The shutdown of a head, from the first signal on.
pub(super) struct Shutdown {
    timeout: Duration,
    /// The time of the signal.
    begun: OnceLock<Instant>,
    /// The exit status, if the process has to be ended.
    status: Arc<AtomicI32>,
}

// === impl Shutdown ===

impl Shutdown {
    pub(super) fn new(timeout: Duration) -> Self {
        let status = Arc::new(AtomicI32::new(FAILURE));
        Self { timeout, begun: OnceLock::new(), status }
    }

    fn reserve(&self) -> Duration {
        (self.timeout / 4).min(RESERVE_MAX)
    }

    /// Sets the gateway's share of the time.
    pub(super) fn limit(&self, limits: &mut Limits) {
        limits.drain_timeout = self.timeout - self.reserve();
        limits.farewell_timeout = self.reserve() / 5;
    }

    /// Waits for a signal, which starts the time of the shutdown. The next signal ends the process at
    /// once.
    pub(super) async fn signal(&self, mut signals: Signals) {
        let signal = signals.next().await;
        self.begin(signal, signals);
    }

    /// Begins the shutdown, after a signal.
    pub(super) fn begin(&self, signal: StopSignal, signals: Signals) {
        let requests = self.timeout - self.reserve();
        info!(
            %signal,
            timeout = ?self.timeout,
            "shutting down: requests may run for another {requests:?}; a second signal ends at once"
        );
        signals.stop_at_next();
        let begun = *self.begun.get_or_init(Instant::now);
        let (timeout, status) = (self.timeout, Arc::clone(&self.status));
        // A separate thread, because the runtime may be what hangs.
        let guard = thread::Builder::new().name("shutdown".to_owned());
        let guard = guard.spawn(move || end_after(begun + timeout, timeout, &status));
        if let Err(why) = guard {
            warn!(%why, "nobody ends this process if it hangs");
        }
    }

    /// Ends the cluster, within its share of the time.
    pub(super) async fn stop(&self, cluster: Cluster) {
        let begun = *self.begun.get_or_init(Instant::now);
        let until = begun + self.timeout - self.reserve() * 2 / 5;
        if timeout_at(until, cluster.stop(Duration::ZERO)).await.is_err() {
            error!("a rank has not ended in time: the process ends without it");
        }
    }

    /// Ends a cluster that has not served. Requests that wait are told of the end, and clients that do
    /// not read that are not waited for.
    pub(super) async fn give_up(&self, cluster: Cluster, api: JoinHandle<Drained>) {
        self.stop(cluster).await;
        drop(timeout(self.reserve() / 5, api).await);
    }

    /// Returns the outcome of the requests for the exit status.
    ///
    /// # Errors
    /// Returns an error when clients neither got an answer nor were told of the end.
    pub(super) fn outcome(&self, drained: Drained) -> Result<(), CliError> {
        let Drained { cut_off, .. } = drained;
        if cut_off > 0 {
            return Err(CliError::failure(format!(
                "{cut_off} connections were closed in the midst of an answer that their clients did \
                 not read to its end"
            )));
        }
        self.status.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the time that is left for the runtime to end its threads.
    pub(super) fn rest(&self) -> Duration {
        let since = self.begun.get().map_or(Duration::ZERO, Instant::elapsed);
        self.timeout.saturating_sub(since).min(self.reserve() / 5)
    }
}

/// Ends the process if it still runs at `end`.
fn end_after(end: Instant, timeout: Duration, status: &AtomicI32) {
    // No message is ever sent: the process ends before, or this thread ends it.
    let (_open, never) = mpsc::sync_channel::<()>(0);
    let _ = never.recv_timeout(end.saturating_duration_since(Instant::now()));
    error!("the shutdown has not ended within {timeout:?}: the process ends now");
    process::exit(status.load(Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_whole() {
        for seconds in [1, 2, 10, 20, 28, 3600] {
            let timeout = Duration::from_secs(seconds);
            let shutdown = Shutdown::new(timeout);
            let mut limits = Limits::default();
            shutdown.limit(&mut limits);
            let ranks = shutdown.reserve() * 2 / 5;
            let told = limits.drain_timeout + limits.farewell_timeout;
            assert!(told + ranks <= timeout - ranks, "{timeout:?}");
            assert!(limits.drain_timeout >= timeout * 3 / 4, "{timeout:?}");
        }
        let mut limits = Limits::default();
        Shutdown::new(Duration::from_secs(28)).limit(&mut limits);
        assert_eq!(limits.drain_timeout, Duration::from_secs(23), "as docs/operations.md says");
    }
}
