//! Timers: messages to come, each dropped with its receiver.
//!
//! - **TI-1** a [`Timer`] that was dropped is not heard any more, also when its message is in the
//!   mailbox already: messages carry the [`TimerId`] of the timer that sent them (**A13**).

use std::future::Future;

use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;

/// The id of a timer, unique among the timers of one actor over its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId(u64);

/// Sets the timers of one actor.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    last: u64,
}

/// A message to come. Dropping it takes the message back.
#[derive(Debug)]
pub(crate) struct Timer {
    id: TimerId,
    task: AbortHandle,
}

// === impl Timers ===

impl Timers {
    /// Sends `message` to `actor` when `wait` completes.
    pub(crate) fn set<M: Message>(
        &mut self,
        actor: &ActorRef<M>,
        wait: impl Future<Output = ()> + Send + 'static,
        message: impl FnOnce(TimerId) -> M + Send + 'static,
    ) -> Timer {
        self.last += 1;
        let (id, actor) = (TimerId(self.last), actor.clone());
        let task = tokio::spawn(async move {
            wait.await;
            // An actor that is gone waits for nothing.
            drop(actor.cast(message(id)));
        });
        Timer { id, task: task.abort_handle() }
    }
}

// === impl Timer ===

impl Timer {
    /// Takes the timer out of `slot` if its id is `id`, because it has fired. Returns whether it was.
    pub(crate) fn fires(slot: &mut Option<Self>, id: TimerId) -> bool {
        slot.take_if(|timer| timer.id == id).is_some()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
