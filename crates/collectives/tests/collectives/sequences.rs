//! Random sequences of operations.

use playhouse_collectives::Group;
use proptest::prelude::*;

use crate::ranks::{NaiveSum as _, Value as _, blank, cast, values};

/// One call of every rank.
#[derive(Clone, Debug)]
enum Call {
    AllReduce(usize),
    AllGather(Vec<usize>),
    ReduceScatter(Vec<usize>),
    AllToAll(Vec<usize>),
    Broadcast(usize, usize),
    Send(usize, usize, usize),
    Barrier,
}

const RANKS_MAX: usize = 5;

fn call() -> impl Strategy<Value = Call> {
    let len = || prop_oneof![0usize..40, 1_000usize..1_100, 4_000usize..9_000];
    let lens = || prop::collection::vec(len(), RANKS_MAX);
    let rank = || 0..RANKS_MAX;
    prop_oneof![
        len().prop_map(Call::AllReduce),
        lens().prop_map(Call::AllGather),
        lens().prop_map(Call::ReduceScatter),
        lens().prop_map(Call::AllToAll),
        (rank(), len()).prop_map(|(root, len)| Call::Broadcast(root, len)),
        (rank(), rank(), len()).prop_map(|(from, to, len)| Call::Send(from, to, len)),
        Just(Call::Barrier),
    ]
}

fn sum(size: usize, index: usize) -> f32 {
    f32::naive_sum((0..size).map(|rank| f32::value(rank, index)))
}

fn make(group: &Group, call: &Call) {
    let (own, size) = (group.rank(), group.size());
    match call {
        Call::AllReduce(len) => {
            let mut output = blank::<f32>(*len);
            group.all_reduce(&values::<f32>(own, *len), &mut output).unwrap();
            assert_eq!(output, (0..*len).map(|index| sum(size, index)).collect::<Vec<_>>());
        }
        Call::AllGather(counts) => {
            let counts = &counts[..size];
            let mut output = blank::<u32>(counts.iter().sum());
            group.all_gather_v(&values::<u32>(own, counts[own]), counts, &mut output).unwrap();
            let parts = counts.iter().enumerate().map(|(rank, count)| values::<u32>(rank, *count));
            assert_eq!(output, parts.collect::<Vec<_>>().concat());
        }
        Call::ReduceScatter(counts) => {
            let counts = &counts[..size];
            let start: usize = counts[..own].iter().sum();
            let mut output = blank::<f32>(counts[own]);
            let input = values::<f32>(own, counts.iter().sum());
            group.reduce_scatter_v(&input, counts, &mut output).unwrap();
            let expected = (start..start + counts[own]).map(|index| sum(size, index));
            assert_eq!(output, expected.collect::<Vec<_>>());
        }
        Call::AllToAll(counts) => {
            // Rank `from` sends `counts[(from + to) % size]` bytes to `to`.
            let count = |from: usize, to: usize| counts[(from + to) % size];
            let part = |from, to| values::<u8>(from, count(from, to));
            let sent: Vec<_> = (0..size).map(|to| count(own, to)).collect();
            let received: Vec<_> = (0..size).map(|from| count(from, own)).collect();
            let input = (0..size).map(|to| part(own, to)).collect::<Vec<_>>().concat();
            let mut output = blank::<u8>(received.iter().sum());
            group.all_to_all_v(&input, &sent, &mut output, &received).unwrap();
            let expected = (0..size).map(|from| part(from, own)).collect::<Vec<_>>().concat();
            assert_eq!(output, expected);
        }
        Call::Broadcast(root, len) => {
            let root = root % size;
            let mut data = if root == own { values::<u8>(root, *len) } else { blank(*len) };
            group.broadcast(&mut data, root).unwrap();
            assert_eq!(data, values::<u8>(root, *len));
        }
        Call::Send(from, to, len) => {
            let (from, to) = (from % size, to % size);
            if from != to && own == from {
                group.send(&values::<u32>(from, *len), to).unwrap();
            } else if from != to && own == to {
                let mut data = blank::<u32>(*len);
                group.recv(&mut data, from).unwrap();
                assert_eq!(data, values::<u32>(from, *len));
            }
        }
        Call::Barrier => group.barrier().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// **SE-1**, **LA-1**: no sequence blocks or confuses the ranks, whatever lies between them.
    #[test]
    fn any_sequence_of_operations_works_on_any_layout(
        machines in prop::collection::vec(0usize..3, 1..=RANKS_MAX),
        calls in prop::collection::vec(call(), 1..30),
    ) {
        cast(&machines).play(|group| calls.iter().for_each(|call| make(&group, call)));
    }
}
