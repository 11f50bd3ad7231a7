//! The tasks of a head that run beside its actors, and their end.
//!
//! - **TK-1** every task of a head is counted until it has ended, and is ended with the head: those of its
//!   replicas first, those of its connections to nodes after them.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to end once they were told to, such as a task that joins a thread that hangs.
pub(crate) const TASKS_END_MAX: Duration = Duration::from_secs(1);

/// Counts tasks, and ends them with their owner. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    over: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// Runs a task until it ends or its owner stops. In the second case the task ends where it waits.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.join(async move { over.run_until_cancelled(task).await.unwrap_or(()) });
    }

    /// Runs a task to its end, which comes by itself.
    pub(crate) fn join(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Does the same as [`join`](Self::join), from a thread that may be outside of the runtime.
    pub(crate) fn join_on(
        &self,
        runtime: &Handle,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tracker.spawn_on(task, runtime);
    }

    /// Ends the tasks, from now on.
    pub(crate) fn stop(&self) {
        self.over.cancel();
        self.tracker.close();
    }

    /// Waits for the ends of all tasks, for as long as `patience`. Returns how many have not ended then.
    pub(crate) async fn ended(&self, patience: Duration) -> usize {
        self.stop();
        match timeout(patience, self.tracker.wait()).await {
            Ok(()) => 0,
            Err(_) => self.tracker.len(),
        }
    }
}
