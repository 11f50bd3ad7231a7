//! The collective operations, over the lanes of one rank.
//!
//! - **CO-1** a collective returns the same bits on every rank.
//! - **SE-1** no operation can block because buffers are full, as long as all ranks call it. Every operation
//!   is a sequence of steps, the same on all ranks. In a step a rank writes to the other ranks, then reads
//!   from them, at most half a ring for each pair. A rank that is behind all others therefore always finds
//!   room, because the bytes of its earlier steps have been read. So that rank goes on, and then the next
//!   one.
//! - **SE-2** memory is bounded whatever the size of a tensor.

use std::ops::Range;

use super::lane::{Label, Lane, Op, Wait};
use super::sum::{Part, sum_into};
use super::watch::Watch;
use crate::CollectiveError;
use crate::element::{Kind, Summand, bytes_of, bytes_of_mut, elements_of};

/// Most bytes that a step moves from one rank to another at once: few enough to stay in cache, enough to
/// outweigh a wait.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// Largest input that every rank sends whole to all others, so that each rank sums everything itself: one
/// exchange instead of two, for twice the bytes or more.
const DIRECT_BYTES_MAX: usize = 32 << 10;

/// The lanes of one rank, and the watch that the rank waits with.
#[derive(Debug)]
pub(super) struct RankLanes {
    pub(super) watch: Watch,
    /// One lane for each other rank: the next rank first, then round.
    lanes: Vec<Lane>,
    /// Most bytes of a piece.
    piece: usize,
}

// === impl RankLanes ===

impl RankLanes {
    /// Returns the lanes of a rank; `capacity` is the size of every ring.
    pub(super) fn new(watch: Watch, lanes: Vec<Lane>, capacity: usize) -> Self {
        // Two pieces, each padded, and a header take at most half a ring and a line.
        let piece = (capacity / 4).min(PIECE_BYTES_MAX);
        Self { watch, lanes, piece }
    }

    pub(super) fn check(&self) -> Result<(), CollectiveError> {
        self.watch.check()
    }

    /// Sends `sends[rank]` to each rank and fills `receives[rank]` from that rank, where there is an entry,
    /// even of length 0. This rank's own entries are ignored.
    pub(super) fn exchange(
        &mut self,
        (op, kind): (Op, Kind),
        sends: &[Option<&[u8]>],
        receives: &mut [Option<&mut [u8]>],
    ) -> Result<(), CollectiveError> {
        let Self { watch, lanes, piece } = self;
        let mut wait = Wait { watch, deadline: None };
        let outward = sends.iter().flatten().map(|bytes| bytes.len());
        let inward = receives.iter().flatten().map(|bytes| bytes.len());
        let longest = outward.chain(inward).max().unwrap_or(0);
        for step in 0..pieces(longest, *piece) {
            for lane in &mut *lanes {
                let Some(bytes) = sends[lane.peer] else { continue };
                let label = Label { op, kind, bytes: bytes.len() };
                lane.send_piece(label, bytes, step, *piece, &mut wait)?;
            }
            for lane in &mut *lanes {
                let Some(bytes) = &mut receives[lane.peer] else { continue };
                let len = bytes.len();
                if step >= pieces(len, *piece) {
                    continue;
                }
                if step == 0 {
                    lane.accept(Label { op, kind, bytes: len }, &mut wait)?;
                }
                let part = &mut bytes[range(step, *piece, len)];
                lane.await_bytes(part.len(), &mut wait)?;
                lane.take(part);
            }
        }
        Ok(())
    }

    /// Sums share `rank` of every rank's input into `output`; the shares lie one after the other and `shares`
    /// has their elements.
    pub(super) fn reduce_scatter<T: Summand>(
        &mut self,
        input: &[T],
        shares: &[Range<usize>],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        let Self { watch, lanes, piece } = self;
        let (rank, piece) = (watch.rank, *piece / size_of::<T>());
        let mut wait = Wait { watch, deadline: None };
        let label = |len: usize| Label {
            op: Op::ReduceScatter,
            kind: T::KIND,
            bytes: len * size_of::<T>(),
        };
        let longest = shares.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        for step in 0..pieces(longest, piece) {
            for lane in &mut *lanes {
                let share = bytes_of(&input[shares[lane.peer].clone()]);
                let label = label(shares[lane.peer].len());
                lane.send_piece(label, share, step, piece * size_of::<T>(), &mut wait)?;
            }
            if step >= pieces(output.len(), piece) {
                continue;
            }
            if step == 0 {
                for lane in &mut *lanes {
                    lane.accept(label(output.len()), &mut wait)?;
                }
            }
            let part = range(step, piece, output.len());
            let own = &input[shares[rank].clone()][part.clone()];
            sum_lanes(lanes, own, &mut output[part], &mut wait)?;
        }
        Ok(())
    }

    /// Sums the inputs of all ranks into the output of every rank.
    pub(super) fn all_reduce<T: Summand>(
        &mut self,
        input: &[T],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        let bytes = size_of_val(input);
        if bytes <= self.piece && bytes * self.lanes.len() <= DIRECT_BYTES_MAX {
            self.all_reduce_at_once(input, output)
        } else {
            self.all_reduce_by_shares(input, output)
        }
    }

    fn all_reduce_at_once<T: Summand>(
        &mut self,
        input: &[T],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        let Self { watch, lanes, .. } = self;
        let mut wait = Wait { watch, deadline: None };
        let bytes = bytes_of(input);
        let label = Label { op: Op::AllReduce, kind: T::KIND, bytes: bytes.len() };
        for lane in &mut *lanes {
            lane.open(label, bytes.len(), &mut wait)?;
            lane.put(bytes);
            lane.publish();
        }
        for lane in &mut *lanes {
            lane.accept(label, &mut wait)?;
        }
        sum_lanes(lanes, input, output, &mut wait)
    }

    /// Sums block by block. Every rank sums one share of each block and sends it to the others: while a rank
    /// waits for the shares of one block, its part of the next block is on the way.
    fn all_reduce_by_shares<T: Summand>(
        &mut self,
        input: &[T],
        output: &mut [T],
    ) -> Result<(), CollectiveError> {
        let Self { watch, lanes, piece } = self;
        let (rank, ranks) = (watch.rank, lanes.len() + 1);
        let mut wait = Wait { watch, deadline: None };
        let label = Label { op: Op::AllReduce, kind: T::KIND, bytes: size_of_val(input) };
        let block = ranks * (*piece / size_of::<T>());
        let mut blocks = input.chunks(block).zip(output.chunks_mut(block));
        let mut step = 0;
        let mut summed: Option<&mut [T]> = None;
        loop {
            let mut next = blocks.next();
            if next.is_none() && summed.is_none() {
                return Ok(());
            }
            for lane in &mut *lanes {
                if let Some((input, _)) = &next {
                    let part = bytes_of(&input[share(input.len(), ranks, lane.peer)]);
                    lane.send_part(label, step, part, &mut wait)?;
                }
                if let Some(output) = &summed {
                    let part = bytes_of(&output[share(output.len(), ranks, rank)]);
                    lane.await_room(part.len(), &mut wait)?;
                    lane.put(part);
                    lane.publish();
                }
            }
            if let Some((input, output)) = &mut next {
                if step == 0 {
                    for lane in &mut *lanes {
                        lane.accept(label, &mut wait)?;
                    }
                }
                let own = share(input.len(), ranks, rank);
                sum_lanes(lanes, &input[own.clone()], &mut output[own], &mut wait)?;
            }
            if let Some(output) = summed {
                for lane in &mut *lanes {
                    let part = share(output.len(), ranks, lane.peer);
                    let part = bytes_of_mut(&mut output[part]);
                    lane.await_bytes(part.len(), &mut wait)?;
                    lane.take(part);
                }
            }
            summed = next.map(|(_, output)| output);
            step += 1;
        }
    }
}

// === impl Lane ===

impl Lane {
    /// Sends piece number `step` of a message, if the message has that many.
    fn send_piece(
        &mut self,
        label: Label,
        message: &[u8],
        step: usize,
        piece: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), CollectiveError> {
        if step >= pieces(message.len(), piece) {
            return Ok(());
        }
        self.send_part(label, step, &message[range(step, piece, message.len())], wait)
    }

    /// Sends part number `step` of a message, with a header if the part is the first.
    fn send_part(
        &mut self,
        label: Label,
        step: usize,
        part: &[u8],
        wait: &mut Wait<'_>,
    ) -> Result<(), CollectiveError> {
        if step == 0 {
            self.open(label, part.len(), wait)?;
        } else {
            self.await_room(part.len(), wait)?;
        }
        self.put(part);
        self.publish();
        Ok(())
    }
}

/// Sums the next bytes of all lanes and this rank's `own`, in the order of ranks (**SU-1**).
fn sum_lanes<T: Summand>(
    lanes: &mut [Lane],
    own: &[T],
    output: &mut [T],
    wait: &mut Wait<'_>,
) -> Result<(), CollectiveError> {
    let bytes = size_of_val(own);
    for lane in &mut *lanes {
        lane.await_bytes(bytes, wait)?;
    }
    let rank = wait.watch.rank;
    let mut parts: Vec<Part<'_, T>> = Vec::with_capacity(lanes.len() + 1);
    // The lanes begin with the next rank, so the lower ranks are at their end.
    let (higher, lower) = lanes.split_at(lanes.len() - rank);
    parts.extend(lower.iter().map(|lane| lane.peek(0, bytes).map(elements_of)));
    parts.push([own, &[]]);
    parts.extend(higher.iter().map(|lane| lane.peek(0, bytes).map(elements_of)));
    sum_into(&parts, output);
    for lane in lanes {
        lane.consume(bytes);
    }
    Ok(())
}

/// Returns the number of pieces of a message: one even if the message is empty, for its header.
fn pieces(len: usize, piece: usize) -> usize {
    len.div_ceil(piece).max(1)
}

fn range(step: usize, piece: usize, len: usize) -> Range<usize> {
    step * piece..len.min((step + 1) * piece)
}

/// Returns the part of `len` elements that `rank` sums.
fn share(len: usize, ranks: usize, rank: usize) -> Range<usize> {
    let most = len.div_ceil(ranks);
    len.min(rank * most)..len.min((rank + 1) * most)
}
