//! The watch, by which a rank waits for another.
//!
//! - **WA-1** no wait is longer than the group's timeout.
//! - **WA-2** a wait for a rank whose process died, or that left, ends within some 10 ms; a wait in a group
//!   that is over ends at once.
//! - **WA-3** bytes that a rank wrote before it left are still read.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::bell::Bell;
use super::clock::Deadline;
use super::fuse::Fuse;
use super::memory::Place;
use super::segment::Segment;
use crate::CollectiveError;
use crate::error::Cause;

/// Checks before the rank yields the processor. With a pause each, they take some microseconds: about as long
/// as another rank needs to answer a short message.
const SPINS: u32 = 100;
/// Time in which the rank yields before it sleeps: longer than ranks that share a step drift apart within a
/// layer. An idle processor takes longer to wake than that.
const YIELDS: Duration = Duration::from_micros(100);
/// The longest time for which a rank of the group takes a yielded processor; another thread took it if
/// longer.
const TURN: Duration = Duration::from_micros(500);
/// Waits without yielding after such a loss. A rank that sleeps instead gets its processor back as soon as it
/// is woken; a rank that yields, when every other thread has had its turn.
const CROWDED_WAITS: u32 = 1_000;
/// Sleep between checks of the peer's process. The bell wakes a rank for everything else.
const SLICE: Duration = Duration::from_millis(10);

/// The state that a rank needs in order to wait.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) rank: usize,
    pub(super) timeout: Duration,
    /// Bell that is rung when anything changes for this rank.
    pub(super) bell: Place<Bell>,
    pub(super) fuse: Arc<Fuse>,
    /// Presence of each rank; this rank's own is not read.
    pub(super) peers: Vec<Presence>,
    /// Checks before yielding: none where ranks outnumber processors.
    spins: u32,
    /// Number of waits to come without yielding, because another thread took the processor for long.
    crowded: Cell<u32>,
}

/// The way to see that a rank is gone.
#[derive(Debug)]
pub(super) enum Presence {
    /// A rank of the same process, which notes when it leaves.
    Thread { segment: Arc<Segment>, index: usize },
    /// A rank of the same machine, which notes when it leaves; the kernel reports when it dies.
    Process { segment: Arc<Segment>, index: usize, pidfd: OwnedFd },
    /// A rank of another machine: gone when its connection has ended and everything it sent is in the ring.
    Machine { gone: Arc<AtomicBool> },
}

// === impl Presence ===

impl Presence {
    /// Watches a rank of this machine that came, by its index.
    pub(super) fn local(segment: &Arc<Segment>, index: usize) -> std::io::Result<Self> {
        let (segment, pid) = (Arc::clone(segment), segment.pid(index));
        if pid == std::process::id() {
            return Ok(Self::Thread { segment, index });
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(std::io::ErrorKind::InvalidData)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self::Process { segment, index, pidfd })
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Thread { segment, index } => segment.has_left(*index),
            Self::Process { segment, index, pidfd } => segment.has_left(*index) || has_died(pidfd),
            Self::Machine { gone } => gone.load(Ordering::Acquire),
        }
    }
}

/// Returns whether a process has ended: its descriptor is then readable.
fn has_died(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(
        rank: usize,
        timeout: Duration,
        bell: Place<Bell>,
        fuse: Arc<Fuse>,
        peers: Vec<Presence>,
    ) -> Self {
        let neighbours =
            peers.iter().filter(|peer| !matches!(peer, Presence::Machine { .. })).count();
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let spins = if neighbours <= processors { SPINS } else { 0 };
        Self { rank, timeout, bell, fuse, peers, spins, crowded: Cell::new(0) }
    }

    /// # Errors
    /// When the group is over.
    pub(super) fn check(&self) -> Result<(), CollectiveError> {
        match self.fuse.cause() {
            None => Ok(()),
            Some(cause) => Err(cause.into_error(self.timeout)),
        }
    }

    /// Checks the group for a rank that waits for all others, without knowing for which.
    ///
    /// # Errors
    /// When the group is over, or now is, because a rank is gone.
    #[cfg(feature = "cuda")]
    pub(super) fn check_ranks(&self) -> Result<(), CollectiveError> {
        let mut others = self.peers.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        let gone = others.find(|(_, peer)| peer.is_gone());
        self.check()?;
        gone.map_or(Ok(()), |(rank, _)| Err(self.fail(Cause::Lost { rank: narrow(rank) })))
    }

    /// Ends the group because of `cause`, unless it has ended already.
    pub(super) fn fail(&self, cause: Cause) -> CollectiveError {
        self.fuse.blow(cause).into_error(self.timeout)
    }

    /// Waits for an action of `peer`. The deadline is the operation's: set by its first wait that takes time.
    ///
    /// # Errors
    /// When the group is over, or now is: because of the deadline, or because the peer is gone.
    pub(super) fn wait(
        &self,
        peer: usize,
        deadline: &mut Option<Deadline>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), CollectiveError> {
        for _ in 0..=self.spins {
            if ready() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let deadline = *deadline.get_or_insert_with(|| Deadline::after(self.timeout));
        if self.offer_processor(deadline, &mut ready) {
            return Ok(());
        }
        loop {
            // In this order: what it wrote before it left is there when it is seen gone (**WA-3**).
            let is_gone = self.peers[peer].is_gone();
            if ready() {
                return Ok(());
            }
            self.check()?;
            if is_gone {
                return Err(self.fail(Cause::Lost { rank: narrow(peer) }));
            }
            let remaining = deadline.remaining();
            if remaining.is_zero() {
                let (by, on) = (narrow(self.rank), narrow(peer));
                return Err(self.fail(Cause::TimedOut { by, on }));
            }
            let is_awake = || ready() || self.fuse.cause().is_some();
            self.bell.sleep_unless(remaining.min(SLICE), is_awake);
        }
    }

    /// Yields the processor for a while, until `ready`. Returns whether `ready` became true.
    fn offer_processor(&self, deadline: Deadline, ready: &mut impl FnMut() -> bool) -> bool {
        if let Some(waits) = self.crowded.get().checked_sub(1) {
            self.crowded.set(waits);
            return false;
        }
        let end = deadline.within(YIELDS);
        while !end.has_passed() {
            let turn = deadline.within(TURN);
            thread::yield_now();
            if turn.has_passed() {
                self.crowded.set(CROWDED_WAITS);
                return ready();
            }
            if ready() {
                return true;
            }
        }
        false
    }
}

/// Returns a rank in the form of a [`Cause`].
pub(super) fn narrow(rank: usize) -> u16 {
    u16::try_from(rank).expect("a group has at most 64 ranks")
}
