//! Every operation against a naive reference, for every layout, size and type.

use half::{bf16, f16};
use playhouse_collectives::Group;

use crate::ranks::{NaiveSum, Value, blank, cast, layouts, values};

/// None, one, a prime, more than a piece, and more than all rings of a rank.
const LENGTHS: [usize; 6] = [0, 1, 7, 997, 4_099, 17_011];

/// Runs `act` as every rank of every layout of 1 to 8 ranks.
fn everywhere(act: impl Fn(&Group) + Sync) {
    for ranks in 1..=8 {
        for machines in layouts(ranks) {
            cast(&machines).play(|group| act(&group));
        }
    }
}

/// Parts of different lengths, some of them empty.
fn counts(ranks: usize, len: usize) -> Vec<usize> {
    (0..ranks).map(|rank| if rank % 3 == 1 { 0 } else { len / (rank + 1) + rank }).collect()
}

fn all_reduce<T: NaiveSum>(group: &Group) {
    for len in LENGTHS {
        let mut output = blank::<T>(len);
        group.all_reduce(&values::<T>(group.rank(), len), &mut output).unwrap();
        let sum = |index| T::naive_sum((0..group.size()).map(|rank| T::value(rank, index)));
        let expected: Vec<T> = (0..len).map(sum).collect();
        assert_eq!(output, expected, "{len} elements on {group:?}");
    }
}

fn all_gather_v<T: Value>(group: &Group) {
    for len in LENGTHS {
        let counts = counts(group.size(), len);
        let mut output = blank::<T>(counts.iter().sum());
        let input = values::<T>(group.rank(), counts[group.rank()]);
        group.all_gather_v(&input, &counts, &mut output).unwrap();
        let parts = counts.iter().enumerate().map(|(rank, count)| values::<T>(rank, *count));
        assert_eq!(output, parts.collect::<Vec<_>>().concat(), "{counts:?} on {group:?}");
    }
}

fn reduce_scatter_v<T: NaiveSum>(group: &Group) {
    for len in LENGTHS {
        let counts = counts(group.size(), len);
        let start: usize = counts[..group.rank()].iter().sum();
        let mut output = blank::<T>(counts[group.rank()]);
        let input = values::<T>(group.rank(), counts.iter().sum());
        group.reduce_scatter_v(&input, &counts, &mut output).unwrap();
        let sum = |index| T::naive_sum((0..group.size()).map(|rank| T::value(rank, index)));
        let expected: Vec<T> = (start..start + counts[group.rank()]).map(sum).collect();
        assert_eq!(output, expected, "{counts:?} on {group:?}");
    }
}

fn all_to_all_v<T: Value>(group: &Group) {
    let (own, size) = (group.rank(), group.size());
    for len in LENGTHS {
        // What `from` sends `to`: from element `1000 * to` of its values.
        let count = |from: usize, to: usize| if (from + to) % 4 == 3 { 0 } else { len / (to + 1) };
        let part = |from: usize, to: usize| -> Vec<T> {
            (0..count(from, to)).map(|index| T::value(from, 1000 * to + index)).collect()
        };
        let sent: Vec<_> = (0..size).map(|to| count(own, to)).collect();
        let received: Vec<_> = (0..size).map(|from| count(from, own)).collect();
        let input = (0..size).map(|to| part(own, to)).collect::<Vec<_>>().concat();
        let mut output = blank::<T>(received.iter().sum());
        group.all_to_all_v(&input, &sent, &mut output, &received).unwrap();
        let expected = (0..size).map(|from| part(from, own)).collect::<Vec<_>>().concat();
        assert_eq!(output, expected, "{sent:?} {received:?} on {group:?}");
    }
}

fn broadcast<T: Value>(group: &Group) {
    for (root, len) in (0..group.size()).zip(LENGTHS.into_iter().rev().cycle()) {
        let is_root = root == group.rank();
        let mut data = if is_root { values::<T>(root, len) } else { blank::<T>(len) };
        group.broadcast(&mut data, root).unwrap();
        assert_eq!(data, values::<T>(root, len), "root {root} on {group:?}");
    }
}

/// Every rank sends to every other, in rank order of the senders.
fn send_and_recv<T: Value>(group: &Group) {
    for from in 0..group.size() {
        for to in (0..group.size()).filter(|to| *to != from) {
            let len = LENGTHS[(from + to) % LENGTHS.len()];
            if from == group.rank() {
                group.send(&values::<T>(from, len), to).unwrap();
            } else if to == group.rank() {
                let mut data = blank::<T>(len);
                group.recv(&mut data, from).unwrap();
                assert_eq!(data, values::<T>(from, len), "{from} to {to}");
            }
        }
    }
}

#[test]
fn sums_agree_with_the_reference() {
    everywhere(|group| {
        all_reduce::<bf16>(group);
        all_reduce::<f16>(group);
        all_reduce::<f32>(group);
    });
}

#[test]
fn scattered_sums_agree_with_the_reference() {
    everywhere(|group| {
        reduce_scatter_v::<bf16>(group);
        reduce_scatter_v::<f16>(group);
        reduce_scatter_v::<f32>(group);
    });
}

#[test]
fn gathered_parts_agree_with_the_reference() {
    everywhere(|group| {
        all_gather_v::<u8>(group);
        all_gather_v::<u32>(group);
        all_gather_v::<bf16>(group);
        all_gather_v::<f16>(group);
        all_gather_v::<f32>(group);
    });
}

#[test]
fn parts_from_each_to_each_agree_with_the_reference() {
    everywhere(|group| {
        all_to_all_v::<u8>(group);
        all_to_all_v::<u32>(group);
        all_to_all_v::<bf16>(group);
        all_to_all_v::<f16>(group);
        all_to_all_v::<f32>(group);
    });
}

#[test]
fn broadcasts_and_messages_agree_with_the_reference() {
    everywhere(|group| {
        broadcast::<u8>(group);
        broadcast::<f16>(group);
        broadcast::<f32>(group);
        send_and_recv::<u8>(group);
        send_and_recv::<u32>(group);
        send_and_recv::<bf16>(group);
    });
}

/// **CO-1**: with values that cancel, the order of a sum shows in its bits.
#[test]
fn sums_do_not_depend_on_sizes_or_layouts() {
    let sum = |machines: &[usize], len: usize| -> Vec<Vec<u32>> {
        cast(machines).play(|group| {
            let input: Vec<f32> = values::<f32>(group.rank(), 40_009)[..len].to_vec();
            let mut output = vec![0.0; len];
            group.all_reduce(&input, &mut output).unwrap();
            output.iter().map(|sum| sum.to_bits()).collect()
        })
    };
    let whole = sum(&[0; 5], 40_009);
    for machines in layouts(5) {
        for len in [1, 100, 5_000, 40_009] {
            for ranks in sum(&machines, len) {
                assert_eq!(ranks, whole[0][..len], "{machines:?} {len}");
            }
        }
    }
}

#[test]
fn a_barrier_holds_everybody_until_the_last_has_come() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    for machines in layouts(5) {
        let come = AtomicUsize::new(0);
        cast(&machines).play(|group| {
            for round in 1..=20 {
                come.fetch_add(1, Ordering::SeqCst);
                group.barrier().unwrap();
                assert!(come.load(Ordering::SeqCst) >= 5 * round);
            }
        });
    }
}

#[test]
fn sixty_four_ranks_agree() {
    for machines in [vec![0; 64], (0..64).map(|rank| rank / 32).collect()] {
        cast(&machines).play(|group| {
            all_reduce::<bf16>(&group);
            group.barrier().unwrap();
        });
    }
}

/// Messages wait for their receiver, as many as fit, and come in order.
#[test]
fn sends_are_buffered_up_to_the_buffer() {
    for machines in layouts(2) {
        let all_sent = std::sync::Barrier::new(2);
        cast(&machines).play(|group| {
            let parts: Vec<Vec<u32>> = (0..40).map(|part| values(part, 50)).collect();
            if group.rank() == 0 {
                parts.iter().for_each(|part| group.send(part, 1).unwrap());
                all_sent.wait();
            } else {
                all_sent.wait();
                let mut data = blank::<u32>(50);
                for part in &parts {
                    group.recv(&mut data, 0).unwrap();
                    assert_eq!(data, *part);
                }
            }
        });
    }
}
