//! The calls of NCCL that make an operation.
//!
//! NCCL gathers and scatters equal parts only. If parts are equal, as they nearly always are, one call is
//! enough. Unequal parts are gathered by a broadcast from each rank and scattered by a reduction to each
//! rank. NCCL has no call for parts from each rank to each rank: these are sends and receives.
//!
//! - **PL-1** the calls of an operation make one NCCL group: they run together, in any order.
//! - **PL-2** no call is of length 0.

use std::ops::Range;

/// One call of NCCL. Places and lengths are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Index of the first element read, in the input.
    pub(super) input: usize,
    /// Index of the first element written, in the output.
    pub(super) output: usize,
    /// Number of elements, as NCCL counts: of the part of one rank.
    pub(super) count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    AllReduce,
    AllGather,
    ReduceScatter,
    /// A broadcast, in which only `root` reads.
    Broadcast {
        root: usize,
    },
    /// A reduction, in which only `root` writes.
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

/// Returns one call on the whole tensor.
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

/// Returns the calls of an all-to-all: `sent[r]` goes to rank `r`, and `received[r]` comes from it, also from
/// a rank to itself.
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

/// Returns the length of the parts, if all parts have the same.
fn equal_len(parts: &[Range<usize>]) -> Option<usize> {
    let (first, rest) = parts.split_first()?;
    rest.iter().all(|part| part.len() == first.len()).then_some(first.len())
}

fn filled(calls: impl IntoIterator<Item = Call>) -> Vec<Call> {
    calls.into_iter().filter(|call| call.count > 0).collect()
}

#[cfg(test)]
mod tests;
