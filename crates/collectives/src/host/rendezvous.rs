//! The rendezvous of a rank with the ranks of other machines: the rank dials lower ranks and listens for
//! higher ones.
//!
//! - **ME-1** a rendezvous takes no longer than the deadline, whatever peers connect and whatever they send.
//! - **ME-2** a stranger on the listener takes a slot for [`HANDSHAKE`] at most, and keeps no rank from
//!   joining.
//! - **ME-3** a rendezvous ends within some 10 ms once the ranks of this machine give up, also in the middle
//!   of a dial or a handshake.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::clock::Deadline;
use super::handshake::{Ends, Failed, answer, dial};
use crate::{GroupSpec, JoinError};

/// The longest that an incoming connection may take to prove itself.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// The longest that one attempt to reach a peer may take.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Time between attempts: the peer may not listen yet.
const RETRY: Duration = Duration::from_millis(20);
/// Time between checks whether all ranks are here.
const LOOK: Duration = Duration::from_millis(5);
/// Most handshakes at once for each rank that is awaited. Further connections are dropped.
const HANDSHAKES_PER_RANK: usize = 4;
/// Most refusals that are remembered for the error message.
const REFUSALS_MAX: usize = 8;

/// The outcome of a rendezvous.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Proven connections, by rank.
    pub(super) streams: BTreeMap<usize, TcpStream>,
    /// Ranks that did not come.
    pub(super) missing: Vec<usize>,
    /// Incoming connections that were turned away, with their source and the reason.
    pub(super) refused: Vec<String>,
}

struct Rendezvous<'a> {
    spec: &'a GroupSpec,
    rank: usize,
    deadline: Deadline,
    /// Ranks of other machines.
    awaited: Vec<usize>,
    /// Returns true when the ranks of this machine gave up, or should.
    is_over: &'a (dyn Fn() -> bool + Sync),
    state: Mutex<RendezvousState>,
    changed: Condvar,
}

#[derive(Default)]
struct RendezvousState {
    arrivals: BTreeMap<usize, TcpStream>,
    /// Ranks whose handshake is complete, or nearly.
    claimed: BTreeSet<usize>,
    refused: Vec<String>,
    /// Error that ends the rendezvous.
    fatal: Option<JoinError>,
    /// Connections in the middle of a handshake.
    pending: BTreeMap<u64, TcpStream>,
    next_pending: u64,
}

/// Connects `rank` with all ranks of other machines that come by the deadline.
pub(super) fn meet(
    spec: &GroupSpec,
    rank: usize,
    listener: Option<TcpListener>,
    deadline: Deadline,
    is_over: &(dyn Fn() -> bool + Sync),
) -> Result<Arrivals, JoinError> {
    let neighbours = spec.neighbours(rank);
    let awaited: Vec<_> =
        (0..spec.members.len()).filter(|other| !neighbours.contains(other)).collect();
    let listener = match listener {
        _ if awaited.iter().all(|&other| other < rank) => None,
        Some(listener) => Some(listener),
        None => Some(bind(spec, rank)?),
    };
    let (state, changed) = (Mutex::default(), Condvar::new());
    let rendezvous = Rendezvous { spec, rank, deadline, awaited, is_over, state, changed };
    thread::scope(|scope| {
        for &peer in rendezvous.awaited.iter().filter(|&&peer| peer < rank) {
            let rendezvous = &rendezvous;
            scope.spawn(move || rendezvous.dial_until_done(peer));
        }
        let listened = match &listener {
            Some(listener) => rendezvous.listen(scope, listener),
            None => {
                rendezvous.pause_while(|| true);
                Ok(())
            }
        };
        rendezvous.close();
        listened
    })
    .map_err(|error| JoinError::system("listen for other ranks", error))?;
    rendezvous.into_arrivals()
}

fn bind(spec: &GroupSpec, rank: usize) -> Result<TcpListener, JoinError> {
    let address = spec.members[rank].address.expect("a checked spec has addresses");
    TcpListener::bind(address)
        .map_err(|error| JoinError::system(format!("listen on {address} as rank {rank}"), error))
}

// === impl Rendezvous ===

impl Rendezvous<'_> {
    fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.fatal.is_some()
            || state.arrivals.len() == self.awaited.len()
            || self.deadline.has_passed()
            || (self.is_over)()
    }

    /// Waits while `more` is true, at most until the rendezvous is done.
    fn pause_while(&self, more: impl Fn() -> bool) {
        while more() && !self.is_done() {
            self.changed.wait_for(&mut self.state.lock(), LOOK);
        }
    }

    fn dial_until_done(&self, peer: usize) {
        let address = self.spec.members[peer].address.expect("a checked spec has addresses");
        while !self.is_done() {
            match self.dial(peer, address) {
                Ok(stream) => return self.arrive(peer, stream),
                Err(Failed::Epoch(theirs)) if theirs > self.spec.epoch => {
                    let ours = self.spec.epoch;
                    return self.give_up(JoinError::Epoch { ours, theirs });
                }
                Err(Failed::Refused(reason)) => {
                    let reason = format!("{reason} ({address})");
                    return self.give_up(JoinError::Refused { rank: peer, reason });
                }
                // Not there yet, or still of an older epoch, which will go.
                Err(Failed::Broken(_) | Failed::Epoch(_)) => {
                    let pause = self.deadline.within(RETRY);
                    self.pause_while(|| !pause.has_passed());
                }
            }
        }
    }

    fn dial(&self, peer: usize, address: SocketAddr) -> Result<TcpStream, Failed> {
        let stream = self.connect(address)?;
        stream.set_nodelay(true)?;
        let ends = Ends { from: self.rank, to: peer };
        self.pending(&stream, || dial(&stream, self.spec, ends, self.deadline))?;
        Ok(stream)
    }

    /// Connects as `TcpStream::connect_timeout` does, and also ends when the rendezvous is done (**ME-3**).
    fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let attempt = self.deadline.within(ATTEMPT);
        loop {
            let limit = attempt.within(LOOK).remaining().try_into().ok();
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            if poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0) {
                break;
            }
            if attempt.has_passed() || self.is_done() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        sockopt::socket_error(&socket)??;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn listen<'scope, 'env>(
        &'env self,
        scope: &'scope thread::Scope<'scope, 'env>,
        listener: &TcpListener,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let handshakes_max = HANDSHAKES_PER_RANK * self.awaited.len();
        while !self.is_done() {
            match listener.accept() {
                Ok((stream, from)) if self.state.lock().pending.len() < handshakes_max => {
                    scope.spawn(move || self.admit(stream, from));
                }
                // Dropped, or aborted before it was accepted.
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    let limit = self.deadline.within(LOOK).remaining().try_into().ok();
                    let mut fds = [PollFd::new(listener, PollFlags::IN)];
                    // Interrupted or not, it looks again.
                    let _ = poll(&mut fds, limit.as_ref());
                }
            }
        }
        Ok(())
    }

    /// Runs the handshake of an incoming connection.
    fn admit(&self, stream: TcpStream, from: SocketAddr) {
        let claimed = Cell::new(None);
        let claim = |peer| {
            let is_first = self.state.lock().claimed.insert(peer);
            claimed.set(is_first.then_some(peer));
            is_first
        };
        let deadline = self.deadline.within(HANDSHAKE);
        let outcome = self.pending(&stream, || {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            answer(&stream, self.spec, self.rank, deadline, claim)
        });
        match outcome {
            Ok(peer) => self.arrive(peer, stream),
            Err(failed) => {
                let mut state = self.state.lock();
                claimed.get().map(|peer| state.claimed.remove(&peer));
                if state.refused.len() < REFUSALS_MAX {
                    state.refused.push(format!("{from}: {failed}"));
                }
            }
        }
    }

    /// Runs `work` on a connection that [`close`](Self::close) can cut.
    fn pending<T>(
        &self,
        stream: &TcpStream,
        work: impl FnOnce() -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let clone = stream.try_clone()?;
        let id = {
            let mut state = self.state.lock();
            let id = state.next_pending;
            state.next_pending += 1;
            state.pending.insert(id, clone);
            id
        };
        // Looked at after it was entered: either this sees the end, or the end sees the connection.
        let outcome = if self.is_done() { Err(broken()) } else { work() };
        self.state.lock().pending.remove(&id);
        outcome
    }

    fn arrive(&self, peer: usize, stream: TcpStream) {
        self.state.lock().arrivals.insert(peer, stream);
        self.changed.notify_all();
    }

    fn give_up(&self, error: JoinError) {
        self.state.lock().fatal.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Cuts connections in the middle of a handshake: every needed rank has come, or comes too late.
    fn close(&self) {
        for stream in self.state.lock().pending.values() {
            // Already broken is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn into_arrivals(self) -> Result<Arrivals, JoinError> {
        let state = self.state.into_inner();
        if let Some(error) = state.fatal {
            return Err(error);
        }
        let streams = state.arrivals;
        let missing = self.awaited.into_iter().filter(|peer| !streams.contains_key(peer)).collect();
        Ok(Arrivals { streams, missing, refused: state.refused })
    }
}

fn broken() -> Failed {
    Failed::Broken(io::ErrorKind::ConnectionAborted.into())
}
