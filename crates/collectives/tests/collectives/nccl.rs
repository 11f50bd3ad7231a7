//! Groups of GPUs, one rank for each: that they agree with the reference, and how they end.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use playhouse_collectives::{AbortHandle, CollectiveError, Communicator, JoinError};

use crate::ranks::{PATIENCE, Value, cast, values};

/// One, a prime, and enough for NCCL to change its way.
const LENGTHS: [usize; 4] = [1, 7, 4_099, 300_007];

fn gpus() -> usize {
    (0..).take_while(|ordinal| Device::new_cuda(*ordinal).is_ok()).count()
}

/// Runs `act` as every rank of a group of the first `ranks` GPUs. What they return, in rank order.
fn play<R: Send>(
    ranks: usize,
    timeout: Duration,
    act: impl Fn(Communicator, Device) -> R + Sync,
) -> Vec<R> {
    assert!(ranks <= gpus(), "the test needs {ranks} GPUs");
    let mut spec = cast(&vec![0; ranks]).spec;
    spec.timeout = timeout;
    thread::scope(|scope| {
        let rank = |rank: usize| {
            let (act, spec) = (&act, &spec);
            scope.spawn(move || {
                let device = Device::new_cuda_with_stream(rank).unwrap();
                act(
                    Communicator::join_nccl(spec, rank, &device, &AbortHandle::new()).unwrap(),
                    device,
                )
            })
        };
        let threads: Vec<_> = (0..ranks).map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Runs `act` as every rank of groups of one GPU up to all.
fn everywhere(act: impl Fn(&Communicator, &Device) + Sync) {
    for ranks in 1..=gpus().max(1) {
        play(ranks, PATIENCE, |group, device| {
            act(&group, &device);
            group.barrier().unwrap();
        });
    }
}

/// Returns a part of a longer tensor: CUDA has no empty tensors.
fn tensor<T: Value + WithDType>(mut values: Vec<T>, device: &Device) -> Tensor {
    let len = values.len();
    values.push(T::value(99, 99));
    Tensor::from_vec(values, len + 1, device).unwrap().narrow(0, 0, len).unwrap()
}

fn elements<T: Value + WithDType>(tensor: &Tensor) -> Vec<T> {
    tensor.to_vec1().unwrap()
}

/// Returns the lengths of equal parts, and of different parts, some of them empty.
fn counts(ranks: usize, len: usize) -> [Vec<usize>; 2] {
    let uneven = (0..ranks).map(|rank| if rank % 3 == 1 { 0 } else { len / (rank + 1) + rank });
    [vec![len; ranks], uneven.collect()]
}

/// Returns whole numbers so small that no order of summing rounds (**NC-3**).
fn whole<T: WithDType>(rank: usize, len: usize) -> Vec<T> {
    (0..len).map(|index| T::from_f64(((7 * rank + index) % 13) as f64)).collect()
}

fn naive_sum<T: WithDType>(ranks: usize, len: usize) -> Vec<T> {
    let sum = |index: usize| (0..ranks).map(|rank| (7 * rank + index) % 13).sum::<usize>();
    (0..len).map(|index| T::from_f64(sum(index) as f64)).collect()
}

fn sums<T: Value + WithDType>(group: &Communicator, device: &Device) {
    let (rank, size) = (group.rank(), group.size());
    for len in LENGTHS {
        let sum = group.all_reduce(tensor(whole::<T>(rank, len), device)).unwrap();
        assert_eq!(elements::<T>(&sum), naive_sum::<T>(size, len), "{len} on {group:?}");
        for counts in counts(size, len) {
            let total = counts.iter().sum();
            let start: usize = counts[..rank].iter().sum();
            let input = tensor(whole::<T>(rank, total), device);
            let share = group.reduce_scatter_v(&input, &counts).unwrap();
            let expected = &naive_sum::<T>(size, total)[start..][..counts[rank]];
            assert_eq!(elements::<T>(&share), expected, "{counts:?} on {group:?}");
        }
    }
}

fn gathers<T: Value + WithDType>(group: &Communicator, device: &Device) {
    for counts in LENGTHS.into_iter().flat_map(|len| counts(group.size(), len)) {
        let input = tensor(values::<T>(group.rank(), counts[group.rank()]), device);
        let all = group.all_gather_v(&input, &counts).unwrap();
        let parts = counts.iter().enumerate().map(|(rank, count)| values::<T>(rank, *count));
        assert_eq!(elements::<T>(&all), parts.collect::<Vec<_>>().concat(), "{counts:?}");
    }
}

fn exchanges<T: Value + WithDType>(group: &Communicator, device: &Device) {
    let (own, size) = (group.rank(), group.size());
    for len in LENGTHS {
        let count = |from: usize, to: usize| if (from + to) % 4 == 3 { 0 } else { len / (to + 1) };
        let part = |from: usize, to: usize| -> Vec<T> {
            (0..count(from, to)).map(|index| T::value(from, 1000 * to + index)).collect()
        };
        let sent: Vec<_> = (0..size).map(|to| count(own, to)).collect();
        let received: Vec<_> = (0..size).map(|from| count(from, own)).collect();
        let input = (0..size).flat_map(|to| part(own, to)).collect();
        let output = group.all_to_all_v(&tensor::<T>(input, device), &sent, &received).unwrap();
        let expected: Vec<_> = (0..size).flat_map(|from| part(from, own)).collect();
        assert_eq!(elements::<T>(&output), expected, "{sent:?} {received:?} on {group:?}");
    }
}

fn messages<T: Value + WithDType>(group: &Communicator, device: &Device) {
    for (root, len) in (0..group.size()).zip(LENGTHS.into_iter().cycle()) {
        let data = tensor(values::<T>(group.rank(), len), device);
        let data = group.broadcast(data, root).unwrap();
        assert_eq!(elements::<T>(&data), values::<T>(root, len), "root {root}");
        for to in (0..group.size()).filter(|to| *to != root) {
            if group.rank() == root {
                group.send(&data, to).unwrap();
            } else if group.rank() == to {
                let received = group.recv(len, T::DTYPE, root).unwrap();
                assert_eq!(elements::<T>(&received), values::<T>(root, len), "{root} to {to}");
            }
        }
    }
}

#[test]
#[ignore = "needs NVIDIA GPUs"]
fn operations_agree_with_the_reference() {
    everywhere(|group, device| {
        sums::<bf16>(group, device);
        sums::<f16>(group, device);
        sums::<f32>(group, device);
        gathers::<u8>(group, device);
        gathers::<bf16>(group, device);
        exchanges::<u32>(group, device);
        exchanges::<f16>(group, device);
        messages::<u32>(group, device);
        messages::<f32>(group, device);
    });
}

#[test]
#[ignore = "needs NVIDIA GPUs"]
fn strided_tensors_are_taken_row_by_row() {
    everywhere(|group, device| {
        let rows = Tensor::arange(0f32, 6.0, device).unwrap().reshape((3, 2)).unwrap();
        let sum = group.all_reduce(rows.t().unwrap()).unwrap();
        let size = group.size() as f32;
        let expected = [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]].map(|row| row.map(|value| size * value));
        assert_eq!(sum.to_vec2::<f32>().unwrap(), expected);
    });
}

/// **NC-3**: with values that cancel, the order of a sum shows in its bits.
#[test]
#[ignore = "needs NVIDIA GPUs"]
fn all_ranks_get_the_same_bits() {
    let sums = play(gpus(), PATIENCE, |group, device| {
        let sum = group.all_reduce(tensor(values::<bf16>(group.rank(), 40_009), &device)).unwrap();
        group.barrier().unwrap();
        elements::<bf16>(&sum)
    });
    assert!(sums.iter().all(|sum| *sum == sums[0]));
}

/// Returns the error of an operation that waits for the last rank, which does not come.
fn wait(group: &Communicator, device: &Device) -> CollectiveError {
    group.all_reduce(tensor(values::<f32>(0, 4_099), device)).unwrap_err()
}

/// **CO-3**
#[test]
#[ignore = "needs NVIDIA GPUs"]
fn an_abort_ends_every_wait_and_every_later_call() {
    play(2, PATIENCE, |group, device| {
        let aborted = CollectiveError::Aborted { by: 1 };
        if group.rank() == 1 {
            let handle = group.abort_handle();
            thread::spawn(move || handle.abort()).join().unwrap();
        }
        assert_eq!(wait(&group, &device), aborted);
        assert_eq!(group.barrier(), Err(aborted));
    });
}

#[test]
#[ignore = "needs NVIDIA GPUs"]
fn a_rank_that_left_is_lost_to_those_who_wait() {
    play(2, PATIENCE, |group, device| {
        if group.rank() == 0 {
            assert_eq!(wait(&group, &device), CollectiveError::PeerLost { rank: 1 });
        }
    });
}

/// **NC-1**: the rank is there, but does not call.
#[test]
#[ignore = "needs NVIDIA GPUs"]
fn a_wait_ends_at_the_timeout_for_everybody() {
    let over = Barrier::new(2);
    play(2, Duration::from_secs(5), |group, device| {
        if group.rank() == 1 {
            over.wait();
        }
        let error = wait(&group, &device);
        assert!(matches!(error, CollectiveError::Device { by: 0, .. }), "{error}");
        if group.rank() == 0 {
            over.wait();
        }
    });
}

#[test]
#[ignore = "needs NVIDIA GPUs"]
fn misuse_is_refused_and_harms_nobody() {
    everywhere(|group, device| {
        let own = tensor(values::<f32>(0, 4), device);
        let size = group.size();
        for refused in [
            group.all_reduce(tensor(values::<f32>(0, 4), &Device::Cpu)),
            group.all_reduce(Tensor::zeros(4, DType::F64, device).unwrap()),
            group.all_gather_v(&own, &vec![4; size + 1]),
            group.all_gather_v(&own, &vec![5; size]),
            group.reduce_scatter_v(&own, &vec![5; size]),
            group.all_to_all_v(&own, &vec![1; size], &vec![5; size]),
            group.broadcast(own.clone(), size),
            group.recv(4, DType::F32, group.rank()),
            group.send(&own, group.rank()).map(|()| own.clone()),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, CollectiveError::Misuse { .. }), "{error}");
        }
    });
}

#[test]
fn a_device_that_nccl_does_not_know_is_refused() {
    let error = Communicator::join_nccl(&cast(&[0]).spec, 0, &Device::Cpu, &AbortHandle::new())
        .unwrap_err();
    assert!(matches!(error, JoinError::Invalid(_)), "{error}");
}
