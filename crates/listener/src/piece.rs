//! The pieces of an answer on one HTTP/2 stream, from the body that gives them to the frames that send them.
//!
//! Hyper asks a body for its next piece while the client has no room for the last one, and its part in a
//! stream is over with the last piece, which HTTP/2 may hold for ever. Only the piece itself sees that it
//! was sent: it is dropped then.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::time::Instant;

tokio::task_local! {
    static OF_STREAM: Arc<Unsent>;
}

/// The pieces of an answer that its stream has not sent.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    pieces: usize,
    /// The time at which the oldest piece became the next to send; `None` without pieces.
    since: Option<Instant>,
    /// The body that waits for the last piece.
    body: Option<Waker>,
}

/// Bytes of an answer, which their stream holds until the client's window has room for them.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    /// `None` over HTTP/1.1, where the socket sees that nothing is sent.
    unsent: Option<Arc<Unsent>>,
}

// === impl Unsent ===

impl Unsent {
    /// Runs `stream`, whose answer has `unsent` as its pieces.
    pub(crate) async fn of_stream(unsent: Arc<Self>, stream: impl Future<Output = ()>) {
        OF_STREAM.scope(unsent, stream).await;
    }

    /// Returns the pieces of the stream that this task runs; `None` on a connection of HTTP/1.1.
    pub(crate) fn of_task() -> Option<Arc<Self>> {
        OF_STREAM.try_with(Arc::clone).ok()
    }

    /// Returns since when a piece has been the next to send.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.held.lock().since
    }

    /// Returns whether every piece was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.lock().pieces == 0
    }

    /// Completes when every piece was sent. One task can wait at a time.
    pub(crate) fn poll_sent(&self, cx: &Context<'_>) -> Poll<()> {
        let mut held = self.held.lock();
        if held.pieces == 0 {
            return Poll::Ready(());
        }
        held.body = Some(cx.waker().clone());
        Poll::Pending
    }

    fn hold(&self) {
        let mut held = self.held.lock();
        held.pieces += 1;
        held.since.get_or_insert_with(Instant::now);
    }

    fn release(&self) {
        let mut held = self.held.lock();
        held.pieces -= 1;
        held.since = (held.pieces > 0).then(Instant::now);
        let body = if held.pieces == 0 { held.body.take() } else { None };
        drop(held);
        if let Some(body) = body {
            body.wake();
        }
    }
}

// === impl Piece ===

impl Piece {
    pub(crate) fn new(bytes: Bytes, unsent: Option<&Arc<Unsent>>) -> Self {
        if let Some(unsent) = unsent {
            unsent.hold();
        }
        Self { bytes, unsent: unsent.cloned() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(unsent) = &self.unsent {
            unsent.release();
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
