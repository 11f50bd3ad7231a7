//! One rank's end of a group, for slices.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use super::abort::AbortHandle;
use super::fuse::Fuse;
use super::lane::Op;
use super::pump::Pump;
use super::rank_lanes::RankLanes;
use super::segment::Segment;
use super::watch::narrow;
use crate::element::{Kind, bytes_of, bytes_of_mut};
use crate::error::{Cause, misuse};
use crate::{CollectiveError, Element, Summand};

/// One rank's end of a group on CPUs, for slices. Dropping it leaves the group: another rank that still waits
/// for this one then fails with [`PeerLost`](CollectiveError::PeerLost).
///
/// All ranks call the same operations in the same order. A send is matched by the receive at the same place
/// in the sequence of operations between the two ranks. Calls from several threads of one rank take turns.
/// Every operation fails as [`CollectiveError`] says.
pub struct Group {
    rank: usize,
    size: usize,
    lanes: Mutex<RankLanes>,
    fuse: Arc<Fuse>,
    segment: Arc<Segment>,
    /// Pumps of the connections, one for each rank of another machine.
    pumps: Vec<Pump>,
    abort: AbortHandle,
}

// === impl Group ===

impl Group {
    pub(super) fn new(
        (rank, size): (usize, usize),
        lanes: RankLanes,
        fuse: Arc<Fuse>,
        segment: Arc<Segment>,
        pumps: Vec<Pump>,
        abort: AbortHandle,
    ) -> Self {
        abort.hold(rank, &fuse);
        Self { rank, size, lanes: Mutex::new(lanes), fuse, segment, pumps, abort }
    }

    /// Returns this rank's index, counted from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of ranks in the group.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the handle that the group was joined with.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    /// Writes the sum over all ranks of `input`, in rank order, to `output`.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn all_reduce<T: Summand>(
        &self,
        input: &[T],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        expect_len("all_reduce", "output", output.len(), input.len())?;
        self.lanes()?.all_reduce(input, output)
    }

    /// Writes the inputs of all ranks, one after the other, to `output`; rank `r` gives `counts[r]` elements.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn all_gather_v<T: Element>(
        &self,
        input: &[T],
        counts: &[usize],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        let op = "all_gather_v";
        let parts = self.parts(op, counts, output.len())?;
        expect_len(op, "input", input.len(), counts[self.rank])?;
        let mut lanes = self.lanes()?;
        output[parts[self.rank].clone()].copy_from_slice(input);
        let sends = vec![Some(bytes_of(input)); self.size];
        let mut receives = split_mut(output, counts);
        lanes.exchange((Op::AllGather, T::KIND), &sends, &mut receives)
    }

    /// Writes the sum over all ranks of this rank's share of `input` to `output`. The shares lie one after
    /// the other; the share of rank `r` has `counts[r]` elements.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn reduce_scatter_v<T: Summand>(
        &self,
        input: &[T],
        counts: &[usize],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        let op = "reduce_scatter_v";
        let shares = self.parts(op, counts, input.len())?;
        expect_len(op, "output", output.len(), counts[self.rank])?;
        self.lanes()?.reduce_scatter(input, &shares, output)
    }

    /// Sends `send_counts[r]` elements of `input` to each rank `r`, and receives `recv_counts[r]` elements
    /// from it. In both slices the parts lie one after the other, in rank order.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn all_to_all_v<T: Element>(
        &self,
        input: &[T],
        send_counts: &[usize],
        output: &mut [T],
        recv_counts: &[usize],
    ) -> Result<(), CollectiveError> {
        let op = "all_to_all_v";
        let from = self.parts(op, send_counts, input.len())?;
        let to = self.parts(op, recv_counts, output.len())?;
        let (sent, kept) = (send_counts[self.rank], recv_counts[self.rank]);
        expect_len(op, "what this rank sends itself", sent, kept)?;
        let mut lanes = self.lanes()?;
        output[to[self.rank].clone()].copy_from_slice(&input[from[self.rank].clone()]);
        let sends: Vec<_> = from.into_iter().map(|part| Some(bytes_of(&input[part]))).collect();
        let mut receives = split_mut(output, recv_counts);
        lanes.exchange((Op::AllToAll, T::KIND), &sends, &mut receives)
    }

    /// Copies `data` of rank `root` to `data` of all ranks, which has equally many elements.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn broadcast<T: Element>(
        &self,
        data: &mut [T],
        root: usize,
    ) -> Result<(), CollectiveError> {
        self.expect_root("broadcast", root)?;
        let mut lanes = self.lanes()?;
        let mut sends = vec![None; self.size];
        let mut receives: Vec<_> = (0..self.size).map(|_| None).collect();
        if root == self.rank {
            sends.fill(Some(bytes_of(data)));
        } else {
            receives[root] = Some(bytes_of_mut(data));
        }
        lanes.exchange((Op::Broadcast, T::KIND), &sends, &mut receives)
    }

    /// Sends `data` to rank `to`, which receives equally many elements of this type. Returns once all of
    /// `data` is buffered: at once if it fits into the free part of the group's `buffer_bytes`.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn send<T: Element>(&self, data: &[T], to: usize) -> Result<(), CollectiveError> {
        self.expect_peer("send", to)?;
        let mut sends = vec![None; self.size];
        sends[to] = Some(bytes_of(data));
        let mut receives: Vec<_> = (0..self.size).map(|_| None).collect();
        self.lanes()?.exchange((Op::Send, T::KIND), &sends, &mut receives)
    }

    /// Fills `data` with the next elements that rank `from` sends to this one.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn recv<T: Element>(&self, data: &mut [T], from: usize) -> Result<(), CollectiveError> {
        self.expect_peer("recv", from)?;
        let mut receives: Vec<_> = (0..self.size).map(|_| None).collect();
        receives[from] = Some(bytes_of_mut(data));
        self.lanes()?.exchange((Op::Send, T::KIND), &vec![None; self.size], &mut receives)
    }

    /// Waits until all ranks have called `barrier`.
    ///
    /// # Errors
    /// As [`Group`] says.
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        let mut receives: Vec<_> = (0..self.size).map(|_| Some([].as_mut_slice())).collect();
        let sends = vec![Some([].as_slice()); self.size];
        self.lanes()?.exchange((Op::Barrier, Kind::U8), &sends, &mut receives)
    }

    /// Locks the lanes of a group that is not over.
    fn lanes(&self) -> Result<MutexGuard<'_, RankLanes>, CollectiveError> {
        let lanes = self.lanes.lock().unwrap_or_else(|poisoned| {
            // A panic in the middle of an operation: how far the operation came is unknown.
            self.fuse.blow(Cause::Aborted { by: narrow(self.rank) });
            poisoned.into_inner()
        });
        lanes.check()?;
        Ok(lanes)
    }

    /// Returns the range of each rank's part.
    pub(crate) fn parts(
        &self,
        op: &'static str,
        counts: &[usize],
        len: usize,
    ) -> Result<Vec<Range<usize>>, CollectiveError> {
        if counts.len() != self.size {
            let reason = format!("{} counts for {} ranks", counts.len(), self.size);
            return Err(misuse(op, reason));
        }
        let mut end = 0usize;
        let parts: Vec<_> = counts
            .iter()
            .map(|count| {
                let start = end;
                end = end.saturating_add(*count);
                start..end
            })
            .collect();
        expect_len(op, "the tensor of all ranks", len, end)?;
        Ok(parts)
    }

    pub(crate) fn expect_root(&self, op: &'static str, root: usize) -> Result<(), CollectiveError> {
        if root < self.size {
            return Ok(());
        }
        Err(misuse(op, format!("root {root} of {} ranks", self.size)))
    }

    pub(crate) fn expect_peer(&self, op: &'static str, rank: usize) -> Result<(), CollectiveError> {
        if rank < self.size && rank != self.rank {
            return Ok(());
        }
        let (own, size) = (self.rank, self.size);
        Err(misuse(op, format!("rank {rank}; the other end of rank {own} is another of {size}")))
    }
}

/// Operations for a rank whose device waits.
#[cfg(feature = "cuda")]
impl Group {
    /// # Errors
    /// When the group is over, or now is, because a rank is gone.
    pub(crate) fn check(&self) -> Result<(), CollectiveError> {
        self.lanes()?.watch.check_ranks()
    }

    /// Ends the group because of this rank's device, unless it has ended already.
    pub(crate) fn fail(&self, reason: &str) -> CollectiveError {
        let lanes = match self.lanes() {
            Ok(lanes) => lanes,
            Err(over) => return over,
        };
        match lanes.watch.fail(Cause::Device { by: narrow(self.rank) }) {
            CollectiveError::Device { by, .. } if by == self.rank => {
                CollectiveError::Device { by, detail: format!(": {reason}") }
            }
            over => over,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.segment.leave();
        // Each pump sends what is left, so all begin before one is waited for.
        self.pumps.iter().for_each(Pump::close);
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, size, .. } = self;
        write!(f, "Group(rank {rank} of {size})")
    }
}

/// Splits a slice into the part of each rank, to be filled.
fn split_mut<'a, T: Element>(mut all: &'a mut [T], counts: &[usize]) -> Vec<Option<&'a mut [u8]>> {
    let mut parts = Vec::with_capacity(counts.len());
    for count in counts {
        let (part, rest) = all.split_at_mut(*count);
        parts.push(Some(bytes_of_mut(part)));
        all = rest;
    }
    parts
}

pub(crate) fn expect_len(
    op: &'static str,
    what: &str,
    given: usize,
    expected: usize,
) -> Result<(), CollectiveError> {
    if given == expected {
        return Ok(());
    }
    Err(misuse(op, format!("{what} has {given} elements; {expected} fit the other arguments")))
}
