//! Plans of all ranks, run on vectors as NCCL would run them.

use super::*;

/// What the ranks get. Panics where a call reads or writes outside, or ranks disagree.
fn run(plans: &[Vec<Call>], inputs: &[Vec<u32>], lens: &[usize]) -> Vec<Vec<u32>> {
    let mut outputs: Vec<Vec<u32>> = lens.iter().map(|len| vec![u32::MAX; *len]).collect();
    for (rank, call) in each(plans) {
        assert!(call.count > 0, "PL-2: {call:?}");
        match call.verb {
            Verb::Recv { from } => {
                let to_me = |call: &&Call| call.verb == Verb::Send { to: rank };
                let sent: Vec<_> = plans[from].iter().filter(to_me).collect();
                let [sent] = sent[..] else { panic!("{call:?} is sent {sent:?}") };
                assert_eq!(sent.count, call.count);
                write(&mut outputs[rank], call, &inputs[from][sent.input..][..sent.count]);
            }
            Verb::Send { to } => {
                let from_me = |call: &&Call| call.verb == Verb::Recv { from: rank };
                assert_eq!(plans[to].iter().filter(from_me).count(), 1, "{call:?}");
            }
            _ => {
                let index = plans[rank].iter().position(|other| other == call).unwrap();
                let alike = |plan: &Vec<Call>| {
                    (plan[index].verb, plan[index].count) == (call.verb, call.count)
                };
                assert!(plans.iter().all(alike), "{plans:?}");
                if let Some(values) = collect(rank, call, index, plans, inputs) {
                    write(&mut outputs[rank], call, &values);
                }
            }
        }
    }
    outputs
}

/// What a collective call writes on `rank`.
fn collect(
    rank: usize,
    call: &Call,
    index: usize,
    plans: &[Vec<Call>],
    inputs: &[Vec<u32>],
) -> Option<Vec<u32>> {
    let count = call.count;
    let read = |rank: usize, len: usize| &inputs[rank][plans[rank][index].input..][..len];
    let sum = |skip: usize, len: usize| -> Vec<u32> {
        let at = |place: usize| (0..plans.len()).map(|rank| read(rank, len)[place]).sum();
        (skip..skip + count).map(at).collect()
    };
    match call.verb {
        Verb::AllReduce => Some(sum(0, count)),
        Verb::AllGather => Some((0..plans.len()).flat_map(|r| read(r, count).to_vec()).collect()),
        Verb::ReduceScatter => Some(sum(rank * count, plans.len() * count)),
        Verb::Broadcast { root } => Some(read(root, count).to_vec()),
        Verb::Reduce { root } => (root == rank).then(|| sum(0, count)),
        Verb::Send { .. } | Verb::Recv { .. } => unreachable!("not a collective"),
    }
}

fn each(plans: &[Vec<Call>]) -> impl Iterator<Item = (usize, &Call)> {
    plans.iter().enumerate().flat_map(|(rank, plan)| plan.iter().map(move |call| (rank, call)))
}

fn write(output: &mut [u32], call: &Call, values: &[u32]) {
    output[call.output..][..values.len()].copy_from_slice(values);
}

fn parts(counts: &[usize]) -> Vec<Range<usize>> {
    let ends = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end - count..*end)
    });
    ends.collect()
}

/// Different on every rank, in every place.
fn values(rank: usize, len: usize) -> Vec<u32> {
    (0..len).map(|place| (1000 * (rank + 1) + place) as u32).collect()
}

const COUNTS: [&[usize]; 6] = [&[3], &[2, 2], &[1, 2], &[0, 4, 1], &[0, 0, 0], &[5, 0, 5, 5]];

#[test]
fn parts_are_gathered_in_rank_order() {
    for counts in COUNTS {
        let plans = vec![all_gather_v(&parts(counts)); counts.len()];
        let inputs: Vec<_> = (0..counts.len()).map(|rank| values(rank, counts[rank])).collect();
        let all = inputs.concat();
        let outputs = run(&plans, &inputs, &vec![all.len(); counts.len()]);
        assert!(outputs.iter().all(|output| *output == all), "{counts:?}: {outputs:?}");
    }
}

#[test]
fn each_rank_gets_its_share_of_the_sum() {
    for counts in COUNTS {
        let (shares, len) = (parts(counts), counts.iter().sum());
        let plans = vec![reduce_scatter_v(&shares); counts.len()];
        let inputs: Vec<_> = (0..counts.len()).map(|rank| values(rank, len)).collect();
        let outputs = run(&plans, &inputs, counts);
        for (output, share) in outputs.iter().zip(shares) {
            let sum = |place: usize| inputs.iter().map(|input| input[place]).sum::<u32>();
            assert_eq!(*output, share.map(sum).collect::<Vec<_>>(), "{counts:?}");
        }
    }
}

#[test]
fn each_part_goes_from_each_to_each() {
    for size in 1..=4 {
        let count = |from: usize, to: usize| if (from + to) % 4 == 3 { 0 } else { from + 2 * to };
        let sent = |rank: usize| (0..size).map(|to| count(rank, to)).collect::<Vec<_>>();
        let received = |rank: usize| (0..size).map(|from| count(from, rank)).collect::<Vec<_>>();
        let plan = |rank: usize| all_to_all_v(&parts(&sent(rank)), &parts(&received(rank)));
        let inputs: Vec<_> = (0..size).map(|rank| values(rank, sent(rank).iter().sum())).collect();
        let lens: Vec<_> = (0..size).map(|rank| received(rank).iter().sum()).collect();
        let outputs = run(&(0..size).map(plan).collect::<Vec<_>>(), &inputs, &lens);
        for (to, output) in outputs.iter().enumerate() {
            let part = |from: usize| inputs[from][parts(&sent(from))[to].clone()].to_vec();
            assert_eq!(*output, (0..size).flat_map(part).collect::<Vec<_>>(), "to {to} of {size}");
        }
    }
}

#[test]
fn equal_parts_are_one_call() {
    let call = |verb| vec![Call { verb, input: 0, output: 0, count: 2 }];
    assert_eq!(all_gather_v(&parts(&[2, 2, 2])), call(Verb::AllGather));
    assert_eq!(reduce_scatter_v(&parts(&[2, 2, 2])), call(Verb::ReduceScatter));
}
