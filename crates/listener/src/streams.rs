//! The streams of one HTTP/2 connection: a task each, so that many answers on one connection are made by
//! many threads.
//!
//! - **H2-1** no more than `limits.streams` at once; more than [`RESETS_MAX`] that are opened and reset at
//!   once, or reset by us for what they sent, end the connection.
//! - **H2-2** a stream that its client resets ends its request, as a closed connection of HTTP/1.1 does.
//!   With the connection all of its streams end.
//! - **H2-3** a client that sends nothing for `limits.ping_interval` is pinged; if it does not answer within
//!   `limits.ping_timeout` the connection ends. (So do half-sent heads: nothing may come between their
//!   parts.)
//! - **H2-4** a stream is reset when its client makes no room for a piece of its answer for
//!   `limits.write_timeout`. The other streams of the connection go on.
//! - **H2-5** clients are told to leave a connection (GOAWAY) that is idle for too long, has had its only
//!   request, or belongs to a listener that drains. What runs on it ends as if nothing had been said.

use std::cell::Cell;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

/// Streams that were opened and reset before they could be served; and streams that we have reset because
/// of what they sent.
pub(crate) const RESETS_MAX: usize = 20;

/// What a stream holds of an answer until its client has room for it.
pub(crate) const SEND_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// Since when the stream of this task holds a piece of its answer. Only hyper asks for the next one,
    /// when the client has made room, so only the body of the answer sees that it has.
    static HELD: Cell<Option<Instant>>;
}

/// The tasks of one connection's streams, which end when it is dropped.
pub(crate) struct Streams {
    tasks: Arc<Mutex<JoinSet<()>>>,
    write_timeout: Duration,
}

/// Makes a task of each stream.
#[derive(Clone)]
pub(crate) struct Spawn {
    /// Streams know this, and must not keep each other.
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

    /// Ends what is left of the streams of a connection that is gone.
    pub(crate) async fn end(self) {
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
    }
}

// === impl Spawn ===

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, stream: F) {
        // A connection that is gone has no streams.
        let Some(tasks) = self.tasks.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(HELD.scope(Cell::new(None), until_stalled(stream, self.write_timeout)));
    }
}

/// Runs `stream` to its end, unless it stalls (**H2-4**): a stream that is dropped is reset.
async fn until_stalled(stream: impl Future<Output = ()>, write_timeout: Duration) {
    tokio::select! {
        biased;
        () = stream => {}
        () = stalled(write_timeout) => debug!("a stream is not read"),
    }
}

/// Completes when the stream of this task has held a piece of its answer for `write_timeout`.
async fn stalled(write_timeout: Duration) {
    let mut deadline = Instant::now() + write_timeout;
    loop {
        sleep_until(deadline).await;
        let now = Instant::now();
        deadline = HELD.with(Cell::get).unwrap_or(now) + write_timeout;
        if deadline <= now {
            return;
        }
    }
}

/// Notes whether the stream of this task has just been given a piece of its answer; if not, it has nothing
/// to send.
pub(crate) fn given(piece: bool) {
    // Without a task of ours nobody asks.
    let _ = HELD.try_with(|held| held.set(piece.then(Instant::now)));
}
