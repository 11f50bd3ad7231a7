//! The handle that ends a rank's groups from outside, whether they are joined already or not.
//!
//! - **AB-1** an abort ends a join within some 10 ms, whatever the join waits for (**A5**).
//! - **AB-2** no abort falls between a join and its group: a group that is joined with an aborted
//!   handle is over from its beginning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::fuse::Fuse;
use super::watch::narrow;
use crate::error::Cause;

/// A handle that ends the groups of one rank from any thread: groups that were joined with the handle, and
/// every join that is still under way. Clones are the same handle. An aborted handle stays aborted.
#[derive(Clone, Debug, Default)]
pub struct AbortHandle {
    shared: Arc<AbortState>,
}

#[derive(Debug, Default)]
struct AbortState {
    /// Set while `groups` is locked; read without it by joins, which look every few milliseconds.
    aborted: AtomicBool,
    groups: Mutex<Vec<Joined>>,
    /// Notified by an abort.
    changed: Condvar,
}

/// A group that was joined with a handle, and the rank that joined it.
#[derive(Debug)]
struct Joined {
    rank: usize,
    fuse: Weak<Fuse>,
}

// === impl AbortHandle ===

impl AbortHandle {
    /// Returns a handle for groups that are still to be joined.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the groups: operations that wait in them, on any rank, return
    /// [`Aborted`](crate::CollectiveError::Aborted) within milliseconds, and so does every later call. A join
    /// with this handle, now or later, fails with [`JoinError::Aborted`](crate::JoinError::Aborted). Does
    /// nothing to groups that are already over.
    pub fn abort(&self) {
        let groups = self.shared.groups.lock();
        self.shared.aborted.store(true, Ordering::Release);
        groups.iter().for_each(Joined::end);
        self.shared.changed.notify_all();
    }

    /// Returns whether [`abort`](Self::abort) was called.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.shared.aborted.load(Ordering::Acquire)
    }

    /// Waits for [`abort`](Self::abort), at most `limit`. Returns whether it was called.
    pub fn wait(&self, limit: Duration) -> bool {
        let is_live = |_: &mut Vec<Joined>| !self.is_aborted();
        self.shared.changed.wait_while_for(&mut self.shared.groups.lock(), is_live, limit);
        self.is_aborted()
    }

    /// Ends a group that was joined as `rank` when the handle is aborted, or at once if the handle already is
    /// (**AB-2**).
    pub(super) fn hold(&self, rank: usize, fuse: &Arc<Fuse>) {
        let mut groups = self.shared.groups.lock();
        groups.retain(|group| group.fuse.strong_count() > 0);
        let joined = Joined { rank, fuse: Arc::downgrade(fuse) };
        if self.is_aborted() {
            joined.end();
        }
        groups.push(joined);
    }
}

// === impl Joined ===

impl Joined {
    fn end(&self) {
        if let Some(fuse) = self.fuse.upgrade() {
            fuse.blow(Cause::Aborted { by: narrow(self.rank) });
        }
    }
}
