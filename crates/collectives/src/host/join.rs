//! The join of a rank into its group.
//!
//! - **JO-1** a join ends within some 10 ms when it is aborted, when the group is over, or when a rank of
//!   this machine that had already come dies; and at the group's timeout in any case.
//! - **JO-2** a join that fails ends the group for the ranks of this machine, and removes its file's name.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::io::Errno;

use super::abort::AbortHandle;
use super::clock::Deadline;
use super::fuse::Fuse;
use super::group::Group;
use super::lane::Lane;
use super::pump::{Pump, Rings};
use super::rank_lanes::RankLanes;
use super::rendezvous::{Arrivals, meet};
use super::ring::{Reader, Writer};
use super::segment::Segment;
use super::watch::{Presence, Watch};
use crate::error::Cause;
use crate::{CollectiveError, GroupSpec, JoinError};

/// Time between checks whether the group is over: most news ring the bell.
const SLICE: Duration = Duration::from_millis(10);

/// A rank that is joining its group.
struct Joining<'a> {
    spec: &'a GroupSpec,
    rank: usize,
    /// The ranks of this machine, in order.
    neighbours: Vec<usize>,
    segment: Arc<Segment>,
    deadline: Deadline,
    abort: &'a AbortHandle,
    /// The ranks of this machine that came.
    watched: BTreeMap<usize, Presence>,
}

impl Group {
    /// Joins `spec` as `rank`, with a listener for ranks of other machines if one is already bound. Blocks
    /// until all ranks are there, `abort` is aborted, or the group's timeout is over.
    ///
    /// # Errors
    /// As [`JoinError`] says.
    pub fn join(
        spec: &GroupSpec,
        rank: usize,
        listener: Option<TcpListener>,
        abort: &AbortHandle,
    ) -> Result<Self, JoinError> {
        spec.check(rank)?;
        let deadline = Deadline::after(spec.timeout);
        let segment = Arc::new(Segment::attach(spec, rank, deadline, abort)?);
        let neighbours = spec.neighbours(rank);
        let joining = Joining {
            spec,
            rank,
            neighbours,
            segment: Arc::clone(&segment),
            deadline,
            abort,
            watched: BTreeMap::new(),
        };
        joining.join(listener).map_err(|error| {
            // An abort can surface as many errors.
            let error = if abort.is_aborted() { JoinError::Aborted } else { error };
            // The ranks of this machine need not wait, and a later attempt begins afresh (**JO-2**).
            segment.end(error.cause(rank));
            let _ = segment.unlink();
            error
        })
    }
}

// === impl Joining ===

impl Joining<'_> {
    fn join(mut self, listener: Option<TcpListener>) -> Result<Group, JoinError> {
        self.segment.reserve(self.rank)?;
        let is_over = || self.segment.cause().is_some() || self.abort.is_aborted();
        let arrivals = meet(self.spec, self.rank, listener, self.deadline, &is_over)?;
        self.gather(&arrivals, Segment::has_come)?;
        let unlinked = self.segment.unlink();
        unlinked.map_err(|error| JoinError::system("unlink shared memory", error))?;
        self.watch()?;
        // A process whose id was used again before it was watched does not come this far.
        self.segment.watching();
        self.gather(&arrivals, Segment::is_watching)?;
        self.connect(arrivals)
            .map_err(|error| JoinError::system("set up the connections of the group", error))
    }

    /// Waits until all ranks of this machine have reached a stage.
    fn gather(
        &mut self,
        arrivals: &Arrivals,
        is_here: impl Fn(&Segment, usize) -> bool,
    ) -> Result<(), JoinError> {
        let (segment, abort) = (Arc::clone(&self.segment), self.abort);
        let neighbours = self.neighbours.clone();
        let absent = || {
            let absent = neighbours.iter().enumerate();
            absent.filter(|(index, _)| !is_here(&segment, *index)).map(|(_, &rank)| rank)
        };
        let is_over = || segment.cause().is_some() || abort.is_aborted();
        let bell = segment.bell(segment.me());
        while absent().next().is_some() && !is_over() && !self.deadline.has_passed() {
            self.watch()?;
            let limit = self.deadline.within(SLICE).remaining();
            bell.sleep_unless(limit, || absent().next().is_none() || is_over());
            self.check_alive()?;
        }
        let mut ranks: Vec<_> = absent().chain(arrivals.missing.iter().copied()).collect();
        ranks.sort_unstable();
        if ranks.is_empty() {
            // Over or not: if it is, the first operation says why.
            return Ok(());
        }
        match segment.cause() {
            // Another rank of this machine has waited as long as this one.
            None | Some(Cause::TimedOut { .. }) => {
                let (waited, refused) = (self.deadline.elapsed(), arrivals.refused.clone());
                Err(JoinError::Missing { ranks, waited, refused })
            }
            Some(cause) => Err(self.ended(cause.into_error(self.spec.timeout))),
        }
    }

    /// Watches the ranks of this machine that have come, so that their death ends the wait for them.
    fn watch(&mut self) -> Result<(), JoinError> {
        for (index, &rank) in self.neighbours.iter().enumerate() {
            if self.watched.contains_key(&rank) || !self.segment.has_come(index) {
                continue;
            }
            match Presence::local(&self.segment, index) {
                Ok(presence) => drop(self.watched.insert(rank, presence)),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {
                    return Err(self.ended(CollectiveError::PeerLost { rank }));
                }
                Err(error) => {
                    let action = format!("watch the process of rank {rank}");
                    return Err(JoinError::system(action, error));
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// When a rank of this machine that had come is gone before it was in the group.
    fn check_alive(&self) -> Result<(), JoinError> {
        for (index, rank) in self.neighbours.iter().enumerate() {
            // In this order: a rank that was in, and has left since, was not lost on its way.
            let is_gone = self.watched.get(rank).is_some_and(Presence::is_gone);
            if is_gone && !self.segment.is_watching(index) {
                return Err(self.ended(CollectiveError::PeerLost { rank: *rank }));
            }
        }
        Ok(())
    }

    fn ended(&self, cause: CollectiveError) -> JoinError {
        JoinError::Ended { rank: self.rank, cause }
    }

    /// Builds the group once all ranks are here.
    fn connect(self, arrivals: Arrivals) -> std::io::Result<Group> {
        let Self { spec, rank, neighbours, segment, abort, mut watched, .. } = self;
        let (size, capacity) = (spec.members.len(), segment.capacity());
        let mut rings = BTreeMap::new();
        for &peer in arrivals.streams.keys() {
            rings.insert(peer, Rings::new(capacity)?);
        }
        let local = (0..neighbours.len()).map(|index| segment.bell(index));
        let remote = rings.values().flat_map(|rings| [rings.outward(), rings.inward()]);
        let fuse = Arc::new(Fuse::new(segment.header.clone(), local.chain(remote).collect()));
        let bell = segment.bell(segment.me());
        let mut pumps = Vec::with_capacity(rings.len());
        for (peer, stream) in arrivals.streams {
            let gone = Arc::new(AtomicBool::new(false));
            watched.insert(peer, Presence::Machine { gone: Arc::clone(&gone) });
            let (fuse, bell) = (Arc::clone(&fuse), bell.clone());
            pumps.push(Pump::start(&rings[&peer], stream, spec, fuse, bell, gone)?);
        }
        let ends = |peer: usize| match rings.get(&peer) {
            Some(rings) => rings.rank_ends(),
            None => local_ends(&segment, &neighbours, peer),
        };
        let lane = |step: usize| {
            let peer = (rank + step) % size;
            let (writer, reader) = ends(peer);
            Lane::new(peer, writer, reader)
        };
        let lanes = (1..size).map(lane).collect();
        let peers = watched.into_values().collect();
        let watch = Watch::new(rank, spec.timeout, bell, Arc::clone(&fuse), peers);
        let lanes = RankLanes::new(watch, lanes, capacity);
        Ok(Group::new((rank, size), lanes, fuse, segment, pumps, abort.clone()))
    }
}

/// Returns the ends of the rings between this rank and another of its machine.
fn local_ends(segment: &Arc<Segment>, neighbours: &[usize], peer: usize) -> (Writer, Reader) {
    let (me, memory) = (segment.me(), segment.memory());
    let other = neighbours.binary_search(&peer).expect("a rank is here or on another machine");
    let writer = Writer::new(memory, segment.ring(me, other), segment.bell(other));
    let reader = Reader::new(memory, segment.ring(other, me), segment.bell(other));
    (writer, reader)
}
