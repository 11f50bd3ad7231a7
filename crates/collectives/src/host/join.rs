//! How a rank joins its group.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::clock::Deadline;
use super::fuse::Fuse;
use super::group::Group;
use super::lane::Lane;
use super::meeting::{Arrivals, meet};
use super::pump::{Pump, Rings};
use super::ring::{Reader, Writer};
use super::seat::Seat;
use super::segment::Segment;
use super::watch::{Presence, Watch, narrow};
use crate::error::Cause;
use crate::{GroupSpec, JoinError};

/// Between looks at whether the group is over: most news ring the bell.
const SLICE: Duration = Duration::from_millis(10);

/// A rank on its way in.
struct Joining<'a> {
    spec: &'a GroupSpec,
    rank: usize,
    /// The ranks of this machine, in order.
    neighbours: Vec<usize>,
    segment: Arc<Segment>,
    deadline: Deadline,
}

impl Group {
    /// Joins `spec` as `rank`, with a listener for ranks of other machines if it is already bound.
    ///
    /// # Errors
    /// As [`JoinError`] says.
    pub fn join(
        spec: &GroupSpec,
        rank: usize,
        listener: Option<TcpListener>,
    ) -> Result<Self, JoinError> {
        spec.check(rank)?;
        let deadline = Deadline::after(spec.timeout);
        let segment = Arc::new(Segment::attach(spec, rank, deadline)?);
        let neighbours = spec.neighbours(rank);
        let joining = Joining { spec, rank, neighbours, segment: Arc::clone(&segment), deadline };
        joining.join(listener).inspect_err(|_| {
            // The ranks of this machine need not wait, and a later attempt begins afresh.
            let word = Cause::Lost { rank: narrow(rank) }.to_word();
            let cause = &segment.header.cause;
            let _ = cause.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed);
            let _ = segment.unlink();
        })
    }
}

// === impl Joining ===

impl Joining<'_> {
    fn join(self, listener: Option<TcpListener>) -> Result<Group, JoinError> {
        let is_over = || self.segment.cause().is_some();
        let arrivals = meet(self.spec, self.rank, listener, self.deadline, &is_over)?;
        self.gather(&arrivals, Segment::has_come)?;
        let unlinked = self.segment.unlink();
        unlinked.map_err(|error| JoinError::system("unlink shared memory", error))?;
        let watched = self.neighbours.iter().enumerate().map(|(index, &rank)| {
            let presence = Presence::local(&self.segment, index);
            presence.map(|presence| (rank, presence)).map_err(|error| {
                JoinError::system(format!("watch the process of rank {rank}"), error)
            })
        });
        let watched = watched.collect::<Result<_, _>>()?;
        // A process whose id was used again before it was watched does not come this far.
        self.segment.watching();
        self.gather(&arrivals, Segment::is_watching)?;
        self.seat(arrivals, watched)
            .map_err(|error| JoinError::system("set up the connections of the group", error))
    }

    /// Waits until all ranks of this machine are so far.
    fn gather(
        &self,
        arrivals: &Arrivals,
        is_here: impl Fn(&Segment, usize) -> bool,
    ) -> Result<(), JoinError> {
        let segment = &self.segment;
        let all_here = || (0..self.neighbours.len()).all(|index| is_here(segment, index));
        let bell = segment.bell(segment.me());
        while !all_here() && segment.cause().is_none() && !self.deadline.has_passed() {
            let limit = self.deadline.within(SLICE).remaining();
            bell.sleep_unless(limit, || all_here() || segment.cause().is_some());
        }
        let absent = self.neighbours.iter().enumerate();
        let absent = absent.filter(|(index, _)| !is_here(segment, *index)).map(|(_, &rank)| rank);
        let mut ranks: Vec<_> = absent.chain(arrivals.missing.iter().copied()).collect();
        ranks.sort_unstable();
        if !ranks.is_empty() {
            let (waited, refused) = (self.deadline.elapsed(), arrivals.refused.clone());
            return Err(JoinError::Missing { ranks, waited, refused });
        }
        // Over or not: if it is, the first operation says why.
        Ok(())
    }

    /// Everybody is here: puts the parts together.
    fn seat(
        self,
        arrivals: Arrivals,
        mut watched: BTreeMap<usize, Presence>,
    ) -> std::io::Result<Group> {
        let Self { spec, rank, neighbours, segment, .. } = self;
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
        let seat = Seat::new(watch, lanes, capacity);
        Ok(Group::new((rank, size), seat, fuse, segment, pumps))
    }
}

/// The ends of the rings between this rank and another of its machine.
fn local_ends(segment: &Arc<Segment>, neighbours: &[usize], peer: usize) -> (Writer, Reader) {
    let (me, memory) = (segment.me(), segment.memory());
    let other = neighbours.binary_search(&peer).expect("a rank is here or on another machine");
    let writer = Writer::new(memory, segment.ring(me, other), segment.bell(other));
    let reader = Reader::new(memory, segment.ring(other, me), segment.bell(other));
    (writer, reader)
}
