//! The waiting queue: items that wait, in order, until the queue is closed.
//!
//! - **WQ-1** an item that is put in stays in the queue, is taken out once, or comes back with the
//!   reason why the queue is closed; after [`close`](WaitingQueue::close) the queue is empty for good.
//!
//! Every interleaving of these calls is tried by `tests/models.rs`.

use std::collections::VecDeque;

use crate::sync::{Mutex, MutexGuard};

/// A queue that can be closed, for a reason.
#[derive(Debug)]
pub(crate) struct WaitingQueue<T, R> {
    state: Mutex<QueueState<T, R>>,
}

#[derive(Debug)]
struct QueueState<T, R> {
    waiting: VecDeque<T>,
    closed: Option<R>,
}

// === impl WaitingQueue ===

impl<T, R: Clone> WaitingQueue<T, R> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(QueueState { waiting: VecDeque::new(), closed: None }) }
    }

    /// Puts an item behind all others.
    ///
    /// # Errors
    /// The same item, and the reason why the queue is closed.
    pub(crate) fn push(&self, last: T) -> Result<(), (T, R)> {
        self.let_in(last, VecDeque::push_back)
    }

    /// Puts an item that was taken out back before all others.
    ///
    /// # Errors
    /// The error of [`push`](Self::push).
    pub(crate) fn put_back(&self, first: T) -> Result<(), (T, R)> {
        self.let_in(first, VecDeque::push_front)
    }

    /// Takes out the first item.
    pub(crate) fn take_first(&self) -> Option<T> {
        self.state().waiting.pop_front()
    }

    /// Takes out the items for which `waits` is false, in order.
    pub(crate) fn take_unless(&self, waits: impl FnMut(&T) -> bool) -> VecDeque<T> {
        let mut state = self.state();
        let (waiting, others) = std::mem::take(&mut state.waiting).into_iter().partition(waits);
        state.waiting = waiting;
        others
    }

    /// Takes out all items, and accepts none any more.
    pub(crate) fn close(&self, reason: R) -> VecDeque<T> {
        let mut state = self.state();
        state.closed = Some(reason);
        std::mem::take(&mut state.waiting)
    }

    pub(crate) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Returns the smallest `key` of all items.
    pub(crate) fn min<K: Ord>(&self, key: impl Fn(&T) -> K) -> Option<K> {
        self.state().waiting.iter().map(key).min()
    }

    fn let_in(&self, one: T, put: impl FnOnce(&mut VecDeque<T>, T)) -> Result<(), (T, R)> {
        let mut state = self.state();
        if let Some(reason) = state.closed.clone() {
            return Err((one, reason));
        }
        put(&mut state.waiting, one);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, QueueState<T, R>> {
        self.state.lock()
    }
}
