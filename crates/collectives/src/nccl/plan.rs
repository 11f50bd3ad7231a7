//! Which calls of NCCL make an operation.
//!
//! NCCL gathers and scatters equal parts only, and so does one call here if they are equal, as they
//! nearly always are. Parts that differ are gathered by a broadcast from each rank and scattered by
//! a reduction to each rank. NCCL has no call for parts from each to each: those are sends and
//! receives.
//!
//! - **PL-1** the calls of an operation make one NCCL group: they run together, in any order.
//! - **PL-2** no call is of length 0.

use std::ops::Range;

/// A call of NCCL. Places and lengths are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Where it begins to read, of what is given.
    pub(super) input: usize,
    /// Where it begins to write, of what is returned.
    pub(super) output: usize,
    /// As NCCL counts: of the part of one rank.
    pub(super) count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    AllReduce,
    AllGather,
    ReduceScatter,
    /// Only `root` reads.
    Broadcast {
        root: usize,
    },
    /// Only `root` writes.
    Reduce {
        root: usize,
    },
    Send {
        to: usize,
    },
    Recv {
        from: usize,
    },
}

/// One call on all there is.
pub(super) fn whole(verb: Verb, count: usize) -> Vec<Call> {
    filled([Call { verb, input: 0, output: 0, count }])
}

pub(super) fn all_gather_v(parts: &[Range<usize>]) -> Vec<Call> {
    match equal_len(parts) {
        Some(count) => whole(Verb::AllGather, count),
        None => filled(parts.iter().enumerate().map(|(root, part)| {
            let verb = Verb::Broadcast { root };
            Call { verb, input: 0, output: part.start, count: part.len() }
        })),
    }
}

pub(super) fn reduce_scatter_v(shares: &[Range<usize>]) -> Vec<Call> {
    match equal_len(shares) {
        Some(count) => whole(Verb::ReduceScatter, count),
        None => filled(shares.iter().enumerate().map(|(root, share)| {
            let verb = Verb::Reduce { root };
            Call { verb, input: share.start, output: 0, count: share.len() }
        })),
    }
}

/// `sent[r]` goes to rank `r`, and `received[r]` comes from it: also from a rank to itself.
pub(super) fn all_to_all_v(sent: &[Range<usize>], received: &[Range<usize>]) -> Vec<Call> {
    let sends = sent.iter().enumerate().map(|(to, part)| {
        let verb = Verb::Send { to };
        Call { verb, input: part.start, output: 0, count: part.len() }
    });
    let receives = received.iter().enumerate().map(|(from, part)| {
        let verb = Verb::Recv { from };
        Call { verb, input: 0, output: part.start, count: part.len() }
    });
    filled(sends.chain(receives))
}

/// The length of all parts, if it is one.
fn equal_len(parts: &[Range<usize>]) -> Option<usize> {
    let (first, rest) = parts.split_first()?;
    rest.iter().all(|part| part.len() == first.len()).then_some(first.len())
}

fn filled(calls: impl IntoIterator<Item = Call>) -> Vec<Call> {
    calls.into_iter().filter(|call| call.count > 0).collect()
}

#[cfg(test)]
mod tests;
