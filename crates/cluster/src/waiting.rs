//! The waiting room: where requests are that no replica can serve.
//!
//! - **P-1** a parked request goes to the first replica that serves, in the order in which they were
//!   parked (**G1**).
//! - **P-2** no request is without a replica for longer than the timeout since it was sent its last
//!   token, however often it is moved meanwhile; then it ends as unserved, with the reason why nobody
//!   serves. One whose own deadline comes first expires then.
//! - **P-3** a caller that leaves takes its parked request along, permits and all (**G5**).
//! - **P-4** what is parked is bounded, because every request here has a permit of the cluster (**C-2**).
//!
//! Nothing is polled: replicas say when they serve, callers when they leave, and one timer is set for
//! the first deadline.

mod queue;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use playhouse_telemetry::Metrics;
use playhouse_types::FinishReason;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::warn;

use self::queue::WaitingQueue;
use crate::clock::Clock;
use crate::pending::Pending;
use crate::replicas::Replicas;

/// Requests that are handed out at a stretch: each is routed, which takes microseconds.
const STRETCH: usize = 64;

/// Holds requests until a replica serves.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    queue: WaitingQueue<Parked, FinishReason>,
    /// Somebody has come, has left, or serves.
    news: Notify,
    timeout: Duration,
    clock: Clock,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Parked {
    pending: Pending,
    /// When it ends as unserved.
    unserved_at: Duration,
}

// === impl WaitingRoom ===

impl WaitingRoom {
    pub(crate) fn new(timeout: Duration, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { queue: WaitingQueue::new(), news: Notify::new(), timeout, clock, metrics }
    }

    /// Lets a request wait for a replica that serves.
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

    /// A replica serves, or a caller has left.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    /// Ends everybody who waits with this reason, and everybody who comes later.
    pub(crate) fn close(&self, reason: &FinishReason) {
        let parked = self.queue.close(reason.clone());
        self.count();
        for one in parked {
            one.pending.sink.end(reason.clone());
        }
    }

    /// Hands requests out to those of `replicas` that serve, and ends those that have waited long
    /// enough, for ever.
    pub(crate) async fn run(&self, replicas: &Replicas) {
        loop {
            let now = self.clock.now();
            for one in self.take_over(now) {
                self.end(one, now, replicas);
            }
            self.hand_out(replicas).await;
            let next = self.queue.min(Parked::deadline);
            let wait = next.map(|next| next.saturating_sub(self.clock.now()));
            tokio::select! {
                () = self.news.notified() => {}
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Lets those go whose callers have left, and takes those out whose time is up.
    fn take_over(&self, now: Duration) -> VecDeque<Parked> {
        let waits = |one: &Parked| !one.pending.sink.is_abandoned() && one.deadline() > now;
        let mut over = self.queue.take_unless(waits);
        // With their places: whoever sees from the metrics that they are gone finds the places free.
        over.retain(|one| !one.pending.sink.is_abandoned());
        // Whoever sees one end finds it gone from the metrics.
        self.count();
        over
    }

    fn end(&self, one: Parked, now: Duration, replicas: &Replicas) {
        let Parked { pending, unserved_at } = one;
        if unserved_at > now {
            return pending.sink.end(FinishReason::Expired);
        }
        let (seconds, why) = (self.timeout.as_secs_f32(), replicas.why_nobody_serves());
        warn!(request = %pending.request().id, why, "no replica served in time");
        let why = format!("no replica could serve it within {seconds} s: {why}");
        pending.sink.end(FinishReason::Unserved(why));
    }

    /// Sends everybody to a replica, in order, while one serves (**P-1**). Only [`run`](Self::run) takes
    /// from the front, so whoever is put back is the first again.
    async fn hand_out(&self, replicas: &Replicas) {
        for handed in 1.. {
            let Some(Parked { mut pending, unserved_at }) = self.take_first() else { return };
            if pending.sink.is_abandoned() {
                continue;
            }
            let replica = replicas.pick(pending.request(), pending.sink.session());
            let back = match replica {
                None => Some(pending),
                Some(replica) => {
                    pending.sink.move_to(replica);
                    replicas.send(replica, pending)
                }
            };
            if let Some(mut pending) = back {
                pending.sink.park(unserved_at);
                self.put_back(Parked { pending, unserved_at });
                if replica.is_none() {
                    return;
                }
            }
            if handed % STRETCH == 0 {
                yield_now().await;
            }
        }
    }

    fn take_first(&self) -> Option<Parked> {
        let first = self.queue.take_first();
        // Whoever sees it end finds it gone from the metrics.
        self.count();
        first
    }

    fn put_back(&self, first: Parked) {
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
    /// When somebody has to look at it.
    fn deadline(&self) -> Duration {
        let own = match &self.pending.moved {
            Some(moved) => moved.deadline(),
            None => self.pending.sink.terms().deadline,
        };
        own.map_or(self.unserved_at, |own| own.min(self.unserved_at))
    }
}
