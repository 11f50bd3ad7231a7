//! The waiting room, for requests that no replica can serve.
//!
//! - **P-1** a parked request goes to the first replica that serves, in the order in which they were
//!   parked (**G1**).
//! - **P-2** no request is without a replica for longer than the timeout since it was sent its last
//!   token, however often it is moved meanwhile; then it ends as unserved, with the reason why no
//!   replica serves. A request whose own deadline comes first expires then.
//! - **P-3** a caller that leaves takes its parked request along, permits and all (**G5**).
//! - **P-4** what is parked is bounded, because every request here has a permit of the cluster (**C-2**).
//!
//! Nothing is polled: replicas say when they serve, callers when they leave, and one timer is set for
//! the first deadline. Not here: handing requests out (see `dispatcher`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use playhouse_telemetry::Metrics;
use playhouse_types::FinishReason;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::pending::Pending;
use super::waiting_queue::WaitingQueue;
use crate::clock::Clock;

/// The room that holds requests until a replica serves.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    queue: WaitingQueue<Parked, FinishReason>,
    /// Notifies that a request has come, a caller has left, or a replica serves.
    news: Notify,
    timeout: Duration,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// A request in the waiting room.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) pending: Pending,
    /// When the request ends as unserved.
    pub(crate) unserved_at: Duration,
}

// === impl WaitingRoom ===

impl WaitingRoom {
    pub(crate) fn new(timeout: Duration, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { queue: WaitingQueue::new(), news: Notify::new(), timeout, clock, metrics }
    }

    /// Parks a request until a replica serves.
    pub(crate) fn park(&self, mut pending: Pending) {
        let unserved_at = pending.sink.park(self.clock.now().saturating_add(self.timeout));
        match self.queue.push(Parked { pending, unserved_at }) {
            Ok(()) => {
                self.count();
                self.wake();
            }
            Err((one, reason)) => one.pending.sink.end(reason),
        }
    }

    /// Wakes the dispatcher, because a replica serves or a caller has left.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    /// Ends every request that waits with this reason, and every request that comes later.
    pub(crate) fn close(&self, reason: &FinishReason) {
        let parked = self.queue.close(reason.clone());
        self.count();
        for one in parked {
            one.pending.sink.end(reason.clone());
        }
    }

    /// Waits until a request or a replica has come, a caller has left, or the first deadline has passed.
    pub(crate) async fn changed(&self) {
        let next = self.queue.min(Parked::deadline);
        let wait = next.map(|next| next.saturating_sub(self.clock.now()));
        tokio::select! {
            () = self.news.notified() => {}
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }

    /// Returns how long a request may be without a replica.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Drops the requests whose callers have left, and returns those whose time is up.
    pub(crate) fn take_over(&self, now: Duration) -> VecDeque<Parked> {
        let waits = |one: &Parked| !one.pending.sink.is_abandoned() && one.deadline() > now;
        let mut over = self.queue.take_unless(waits);
        // Dropped with their places: a reader who sees in the metrics that they are gone finds the
        // places free.
        over.retain(|one| !one.pending.sink.is_abandoned());
        // A caller that sees its request end finds it gone from the metrics.
        self.count();
        over
    }

    /// Takes out the first request.
    pub(crate) fn take_first(&self) -> Option<Parked> {
        let first = self.queue.take_first();
        // A caller that sees its request end finds it gone from the metrics.
        self.count();
        first
    }

    /// Puts a request that was the first back before all others.
    pub(crate) fn put_back(&self, first: Parked) {
        match self.queue.put_back(first) {
            Ok(()) => self.count(),
            Err((first, reason)) => first.pending.sink.end(reason),
        }
    }

    fn count(&self) {
        self.metrics.requests_parked.set(self.queue.len() as i64);
    }
}

// === impl Parked ===

impl Parked {
    /// Returns when the dispatcher has to look at the request.
    fn deadline(&self) -> Duration {
        let own = match &self.pending.moved {
            Some(moved) => moved.deadline(),
            None => self.pending.sink.terms().deadline,
        };
        own.map_or(self.unserved_at, |own| own.min(self.unserved_at))
    }
}
