//! The tasks of a head that run beside its actors, and who joins them.
//!
//! - **TK-1** every task of a head is counted until it has ended, and is ended with the head.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Counts tasks, and ends them with their head. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    over: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// Runs a task until it ends, or the head stops: then it ends where it waits.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tracker.spawn(async move { over.run_until_cancelled(task).await.unwrap_or(()) });
    }

    /// Waits for the end of something that ends by itself, and that nothing can be done about.
    pub(crate) fn join(&self, end: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(end);
    }

    /// Ends the tasks, from now on.
    pub(crate) fn stop(&self) {
        self.over.cancel();
        self.tracker.close();
    }

    /// Waits for the ends of all tasks, for as long as `patience`: how many have not ended then.
    pub(crate) async fn ended(&self, patience: Duration) -> usize {
        self.stop();
        match timeout(patience, self.tracker.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tracker.len(),
        }
    }
}
