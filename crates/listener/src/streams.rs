//! The streams of one HTTP/2 connection. Each stream has a task of its own, so that many threads make the
//! answers of one connection.
//!
//! - **H2-1** at most `limits.streams` are open at once; more than [`RESETS_MAX`] streams that are opened
//!   and reset at once, or that are reset by us because of their input, end the connection.
//! - **H2-2** a stream that its client resets ends its request, as a closed connection of HTTP/1.1 does.
//!   The end of a connection ends all of its streams.
//! - **H2-3** a client that sends nothing for `limits.ping_interval` is pinged; if it does not answer
//!   within `limits.ping_timeout` the connection ends. (The same bound ends incomplete heads, because no
//!   frame may come between their parts.)
//! - **H2-4** a stream is reset when its client opens no window for a piece of its answer for
//!   `limits.write_timeout`, the last piece included: an answer ends when all of its pieces are sent. The
//!   other streams of the connection go on.
//! - **H2-5** clients are told to leave a connection (GOAWAY) that is idle for too long, has had its only
//!   request, or belongs to a listener that drains. The running requests of the connection end normally.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::piece::Unsent;

/// The maximum number of streams that were opened and reset before they could be served; also the maximum
/// number of streams that we have reset because of their input.
pub(crate) const RESETS_MAX: usize = 20;

/// The bytes of an answer that a stream buffers until its client has room for them.
pub(crate) const SEND_BYTES: usize = 64 << 10;

/// The tasks of one connection's streams. Dropping a `Streams` ends them.
pub(crate) struct Streams {
    tasks: Arc<Mutex<JoinSet<()>>>,
    write_timeout: Duration,
}

/// An executor for hyper that makes a task of each stream.
#[derive(Clone)]
pub(crate) struct Spawn {
    /// Weak, because the streams own this executor and must not keep each other alive.
    tasks: Weak<Mutex<JoinSet<()>>>,
    write_timeout: Duration,
}

// === impl Streams ===

impl Streams {
    pub(crate) fn new(write_timeout: Duration) -> Self {
        Self { tasks: Arc::default(), write_timeout }
    }

    pub(crate) fn spawn(&self) -> Spawn {
        Spawn { tasks: Arc::downgrade(&self.tasks), write_timeout: self.write_timeout }
    }

    /// Ends the remaining streams of a closed connection.
    pub(crate) async fn end(self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

// === impl Spawn ===

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, stream: F) {
        // A closed connection has no streams.
        let Some(tasks) = self.tasks.upgrade() else { return };
        let mut tasks = tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(until_stalled(stream, self.write_timeout));
    }
}

/// Runs `stream` to its end, unless it stalls (**H2-4**): a stream that is dropped is reset.
async fn until_stalled(stream: impl Future<Output = ()>, write_timeout: Duration) {
    let unsent = Arc::<Unsent>::default();
    tokio::select! {
        biased;
        () = Unsent::of_stream(Arc::clone(&unsent), stream) => {}
        () = stalled(&unsent, write_timeout) => debug!("a stream is not read"),
    }
}

/// Completes when a piece of an answer was the next to send for `write_timeout`.
async fn stalled(unsent: &Unsent, write_timeout: Duration) {
    let mut deadline = Instant::now() + write_timeout;
    loop {
        sleep_until(deadline).await;
        let now = Instant::now();
        deadline = unsent.since().unwrap_or(now) + write_timeout;
        if deadline <= now {
            return;
        }
    }
}
