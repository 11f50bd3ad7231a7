//! The state of the twin behind one lock: hosts, faults, connections, bytes under way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use parking_lot::{Mutex, MutexGuard};
use playhouse_wire::PeerId;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Duration, Instant, sleep_until};

use super::end::End;
use super::pipe::Pipe;
use crate::close::PeerLost;
use crate::random::splitmix;

/// The time before a sender sends a lost packet again, in addition to twice the delay.
const RESEND: Duration = Duration::from_millis(25);

/// The shared state of a network.
#[derive(Debug, Default)]
pub(super) struct World {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) random: u64,
    /// The hosts in an order, like everything here: one seed takes one course (**TW-1**).
    pub(super) hosts: BTreeMap<SocketAddr, Listener>,
    pub(super) faults: BTreeMap<(PeerId, PeerId), Fault>,
    /// The hosts whose processes are suspended.
    pub(super) suspended: BTreeSet<PeerId>,
    pub(super) pairs: BTreeMap<u64, Pair>,
    pub(super) next_pair: u64,
    /// The address of each host, which all starts of the host have.
    pub(super) addresses: BTreeMap<PeerId, SocketAddr>,
}

/// The queue of connections to a host.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) id: PeerId,
    pub(super) connections: mpsc::Sender<End>,
    pub(super) idle: Duration,
    pub(super) keep_alive: Duration,
}

/// The faults of the network from one host to another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fault {
    pub(super) cut: bool,
    pub(super) delay: Duration,
    /// The share of packets that are lost.
    pub(super) share: f64,
}

/// One connection. Side 0 is the dialler.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) sides: [Side; 2],
    pub(super) streams: BTreeMap<u64, [Pipe; 2]>,
    pub(super) next_stream: u64,
    /// Whether one of the two processes has crashed.
    pub(super) crashed: bool,
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) id: PeerId,
    /// The reason why the connection has ended for this side.
    pub(super) lost: Option<PeerLost>,
    /// A farewell under way to this side.
    pub(super) farewell: Option<(Instant, PeerLost)>,
    /// When this side last heard from the other.
    pub(super) heard: Instant,
    /// The streams that the other side opened, each with whether both sides write to it.
    pub(super) opened: Vec<(u64, bool)>,
}

/// The result of looking at the state: done, or when to look again besides every change.
pub(super) enum Look<T> {
    Done(T),
    Again(Option<Instant>),
}

// === impl World ===

impl World {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes the state, and wakes all waiters.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let done = act(&mut self.lock());
        self.changed.notify_waiters();
        done
    }

    /// Waits until `look` is done.
    pub(super) async fn wait<T>(
        self: &Arc<Self>,
        mut look: impl FnMut(&mut State, Instant) -> Look<T>,
    ) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let again = match look(&mut self.lock(), Instant::now()) {
                Look::Done(done) => return done,
                Look::Again(again) => again,
            };
            match again {
                None => changed.await,
                Some(at) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

// === impl State ===

impl State {
    pub(super) fn fault(&self, from: &PeerId, to: &PeerId) -> Fault {
        self.faults.get(&(from.clone(), to.clone())).copied().unwrap_or_default()
    }

    /// Returns whether packets of one pair pass from `side` to the other.
    pub(super) fn is_open(&self, pair: u64, side: usize) -> bool {
        let Pair { sides, crashed, .. } = &self.pairs[&pair];
        let fault = self.fault(&sides[side].id, &sides[1 - side].id);
        !crashed && !fault.cut && fault.share < 1.0 && !self.is_suspended(pair, side)
    }

    /// Returns whether the process on one side of a pair is suspended.
    pub(super) fn is_suspended(&self, pair: u64, side: usize) -> bool {
        let host = self.pairs.get(&pair).map(|pair| &pair.sides[side].id);
        host.is_some_and(|host| self.suspended.contains(host))
    }

    /// Returns when a packet sent now arrives, resent as often as it is lost.
    pub(super) fn arrival(&mut self, pair: u64, side: usize, now: Instant) -> Instant {
        let sides = &self.pairs[&pair].sides;
        let fault = self.fault(&sides[side].id, &sides[1 - side].id);
        let mut at = now + fault.delay;
        // A link that loses everything is cut, which is checked on arrival.
        while fault.share < 1.0 && self.loses(fault.share) {
            at += 2 * fault.delay + RESEND;
        }
        at
    }

    /// Returns the pipe that `side` writes on a stream, while the connection is known.
    pub(super) fn pipe(&mut self, pair: u64, stream: u64, side: usize) -> Option<&mut Pipe> {
        let stream = self.pairs.get_mut(&pair)?.streams.get_mut(&stream)?;
        Some(&mut stream[side])
    }

    /// Draws whether a packet is lost.
    pub(super) fn loses(&mut self, share: f64) -> bool {
        if share <= 0.0 {
            return false;
        }
        let drawn = (splitmix(&mut self.random) >> 11) as f64 / (1u64 << 53) as f64;
        drawn < share
    }

    /// Returns whether the connection has ended for this side; a farewell that has arrived ends it.
    pub(super) fn lost(&mut self, pair: u64, side: usize, now: Instant) -> Poll<PeerLost> {
        let open = self.is_open(pair, 1 - side);
        let Some(pair) = self.pairs.get_mut(&pair) else { return Poll::Ready(PeerLost::Local) };
        let side = &mut pair.sides[side];
        if side.lost.is_none() && open {
            side.lost = side.farewell.take_if(|(at, _)| *at <= now).map(|(_, why)| why);
        }
        side.lost.clone().map_or(Poll::Pending, Poll::Ready)
    }
}

// === impl Look ===

impl<T> Look<T> {
    /// Returns done if the connection is lost, else the result of `other`; nothing while the process is
    /// suspended (**TW-4**).
    pub(super) fn unless_lost(
        state: &mut State,
        pair: u64,
        side: usize,
        now: Instant,
        other: impl FnOnce(&mut State) -> Look<Result<T, PeerLost>>,
    ) -> Look<Result<T, PeerLost>> {
        if state.is_suspended(pair, side) {
            return Look::Again(None);
        }
        match state.lost(pair, side, now) {
            Poll::Ready(lost) => Look::Done(Err(lost)),
            Poll::Pending => {
                let farewell = state.pairs[&pair].sides[side].farewell.as_ref().map(|(at, _)| *at);
                // A farewell that waits for the network to open is found by the change that opens it.
                let farewell = farewell.filter(|&at| at > now);
                match other(state) {
                    Look::Again(at) => Look::Again(at.into_iter().chain(farewell).min()),
                    done => done,
                }
            }
        }
    }
}
