//! The dispatcher: hands out the requests that wait for a replica, and ends those whose time is up.

use std::sync::Arc;
use std::time::Duration;

use playhouse_types::FinishReason;
use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use crate::clock::Clock;
use crate::mail::{Parked, WaitingRoom};
use crate::replicas::Replicas;

/// The number of requests that are handed out without a pause: routing takes microseconds for each.
const STRETCH: usize = 64;

/// Takes requests from the waiting room to replicas. There is one for each [`WaitingRoom`].
pub(crate) struct Dispatcher {
    replicas: Arc<Replicas>,
    waiting: Arc<WaitingRoom>,
    clock: Clock,
}

// === impl Dispatcher ===

impl Dispatcher {
    /// Runs the dispatcher for ever. After a panic it begins anew, and nothing is lost: a request that
    /// was on its way comes back to the waiting room (**GE-2** of `sink`).
    pub(crate) async fn keep(replicas: Arc<Replicas>) {
        loop {
            let (waiting, clock) = (Arc::clone(replicas.waiting_room()), replicas.clock());
            let dispatcher = Self { replicas: Arc::clone(&replicas), waiting, clock };
            let dispatcher = tokio::spawn(async move { dispatcher.run().await });
            if let Err(why) = AbortOnDropHandle::new(dispatcher).await {
                error!(%why, "the waiting room failed, and is opened again");
            }
        }
    }

    /// Hands requests out to the replicas that serve, and ends those that have waited long enough, for
    /// ever.
    async fn run(&self) {
        loop {
            let now = self.clock.now();
            for one in self.waiting.take_over(now) {
                self.end(one, now);
            }
            self.hand_out().await;
            self.waiting.changed().await;
        }
    }

    fn end(&self, one: Parked, now: Duration) {
        let Parked { pending, unserved_at } = one;
        if unserved_at > now {
            return pending.sink.end(FinishReason::Expired);
        }
        let seconds = self.waiting.timeout().as_secs_f32();
        let awaited = self.replicas.awaited();
        let why = awaited.map_or_else(|| "one serves again".to_owned(), |it| it.in_full());
        warn!(request = %pending.request().request.id, why, "no replica served in time");
        let why = format!("no replica could serve it within {seconds} s: {why}");
        pending.sink.end(FinishReason::Unserved(why));
    }

    /// Sends the waiting requests to replicas, in order, while one serves (**P-1**). Only
    /// [`run`](Self::run) takes from the front, so a request that is put back is the first again.
    async fn hand_out(&self) {
        for handed in 1.. {
            let Some(Parked { mut pending, unserved_at }) = self.waiting.take_first() else {
                return;
            };
            if pending.sink.is_abandoned() {
                continue;
            }
            let replica = self.replicas.pick(pending.request(), pending.sink.session());
            let back = match replica {
                None => Some(pending),
                Some(replica) => {
                    pending.sink.move_to(replica);
                    self.replicas.send(replica, pending)
                }
            };
            if let Some(mut pending) = back {
                pending.sink.park(unserved_at);
                self.waiting.put_back(Parked { pending, unserved_at });
                if replica.is_none() {
                    return;
                }
            }
            if handed % STRETCH == 0 {
                yield_now().await;
            }
        }
    }
}
