//! How a rank finds the ranks of other machines: it dials those below it and listens for those above.
//!
//! - **ME-1** it takes no longer than the deadline, whoever connects and whatever they send.
//! - **ME-2** a stranger on the listener costs a slot for [`HANDSHAKE`] at most, and no rank its place.
//! - **ME-3** it ends within some 10 ms once the ranks of this machine give up, in the middle of a dial
//!   or a handshake as well.

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
/// Between attempts: the peer may not listen yet.
const RETRY: Duration = Duration::from_millis(20);
/// Between looks at whether everybody is here.
const LOOK: Duration = Duration::from_millis(5);
/// Handshakes at once, for each rank that is awaited. Connections beyond are dropped.
const HANDSHAKES_PER_RANK: usize = 4;
/// Refusals that are remembered for the error message.
const REFUSALS_MAX: usize = 8;

/// Who came.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Proven connections, by rank.
    pub(super) streams: BTreeMap<usize, TcpStream>,
    /// Who did not come.
    pub(super) missing: Vec<usize>,
    /// Incoming connections that were turned away: from where, and why.
    pub(super) refused: Vec<String>,
}

struct Rendezvous<'a> {
    spec: &'a GroupSpec,
    rank: usize,
    deadline: Deadline,
    /// Ranks of other machines.
    awaited: Vec<usize>,
    /// The ranks of this machine gave up, or are to.
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
    /// Nothing can come of it any more.
    fatal: Option<JoinError>,
    /// Connections in the middle of a handshake.
    pending: BTreeMap<u64, TcpStream>,
    next_pending: u64,
}

/// Connects `rank` with all ranks of other machines, as far as they come by the deadline.
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

    /// Waits, at most until the rendezvous is done.
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

    /// As `TcpStream::connect_timeout`, which does not look at whether the rendezvous is done (**ME-3**).
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

    /// Lets a connection prove itself.
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

    /// Does `work` on a connection that [`close`](Self::close) can cut.
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

    /// Cuts what is in the middle of a handshake: whoever is needed has come, or comes too late.
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
