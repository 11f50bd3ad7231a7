//! The face for tensors.

use candle_core::{DType, Device, Tensor};
use playhouse_collectives::{CollectiveError, Communicator};

use crate::ranks::cast;

fn play<R: Send>(ranks: usize, act: impl Fn(Communicator) -> R + Sync) -> Vec<R> {
    cast(&vec![0; ranks]).play(|group| act(Communicator::from(group)))
}

/// `[[rank, rank + 1], [rank + 2, …]]`, of `rows` rows.
fn tensor(rank: usize, rows: usize) -> Tensor {
    let first = rank as f32;
    Tensor::arange(first, first + 2.0 * rows as f32, &Device::Cpu)
        .and_then(|tensor| tensor.reshape((rows, 2)))
        .unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

#[test]
fn tensors_are_summed_in_every_type_and_keep_their_shape() {
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        play(3, |group| {
            let sum = group.all_reduce(tensor(group.rank(), 2).to_dtype(dtype).unwrap()).unwrap();
            assert_eq!(sum.dtype(), dtype);
            assert_eq!(rows(&sum), [[3.0, 6.0], [9.0, 12.0]]);
        });
    }
}

#[test]
fn strided_tensors_are_taken_row_by_row() {
    play(2, |group| {
        let sum = group.all_reduce(tensor(group.rank(), 2).t().unwrap()).unwrap();
        assert_eq!(rows(&sum), [[1.0, 5.0], [3.0, 7.0]]);
        let last = tensor(group.rank(), 3).narrow(0, 2, 1).unwrap();
        assert_eq!(rows(&group.all_reduce(last).unwrap()), [[9.0, 11.0]]);
    });
}

#[test]
fn rows_are_gathered_scattered_and_exchanged() {
    play(2, |group| {
        let own = group.rank();
        let all = group.all_gather_v(&tensor(10 * own, own + 1), &[1, 2]).unwrap();
        assert_eq!(rows(&all), [[0.0, 1.0], [10.0, 11.0], [12.0, 13.0]]);
        let share = group.reduce_scatter_v(&tensor(own, 3), &[1, 2]).unwrap();
        let shares = [vec![vec![1.0, 3.0]], vec![vec![5.0, 7.0], vec![9.0, 11.0]]];
        assert_eq!(rows(&share), shares[own]);
        // Rank 0 keeps one row and gives two, rank 1 gives one and keeps none.
        let (sent, received) = ([[1, 2], [1, 0]][own], [[1, 1], [2, 0]][own]);
        let mixed = group.all_to_all_v(&tensor(10 * own, 3 - 2 * own), &sent, &received).unwrap();
        let expected = [[[0.0, 1.0], [10.0, 11.0]], [[2.0, 3.0], [4.0, 5.0]]];
        assert_eq!(rows(&mixed), expected[own]);
    });
}

#[test]
fn tensors_are_sent_received_and_broadcast() {
    play(2, |group| {
        if group.rank() == 0 {
            group.send(&tensor(5, 2).to_dtype(DType::BF16).unwrap(), 1).unwrap();
        } else {
            let received = group.recv((2, 2), DType::BF16, 0).unwrap();
            assert_eq!((received.dtype(), received.dims()), (DType::BF16, &[2, 2][..]));
            assert_eq!(rows(&received), [[5.0, 6.0], [7.0, 8.0]]);
        }
        let ids = Tensor::new(&[group.rank() as u32; 3], &Device::Cpu).unwrap();
        let ids = group.broadcast(ids, 1).unwrap();
        assert_eq!(ids.to_vec1::<u32>().unwrap(), [1; 3]);
        group.barrier().unwrap();
    });
}

#[test]
fn another_size_than_was_sent_is_an_error() {
    play(2, |group| {
        let error = match group.rank() {
            0 => group.send(&tensor(0, 2), 1).and_then(|()| group.barrier()).unwrap_err(),
            _ => group.recv((2, 3), DType::F32, 0).unwrap_err(),
        };
        assert!(matches!(error, CollectiveError::Mismatch { by: 1, with: 0, .. }), "{error}");
    });
}

#[test]
fn tensors_that_cannot_be_summed_are_refused() {
    play(2, |group| {
        for dtype in [DType::F64, DType::U32] {
            let error = group.all_reduce(tensor(0, 1).to_dtype(dtype).unwrap()).unwrap_err();
            assert!(matches!(error, CollectiveError::Misuse { op: "all_reduce", .. }), "{error}");
        }
        group.barrier().unwrap();
    });
}

#[test]
fn a_group_of_one_changes_nothing() {
    let group = Communicator::solo();
    assert_eq!((group.rank(), group.size()), (0, 1));
    let own = rows(&tensor(3, 2));
    assert_eq!(rows(&group.all_reduce(tensor(3, 2)).unwrap()), own);
    assert_eq!(rows(&group.all_gather_v(&tensor(3, 2), &[2]).unwrap()), own);
    assert_eq!(rows(&group.reduce_scatter_v(&tensor(3, 2), &[2]).unwrap()), own);
    assert_eq!(rows(&group.all_to_all_v(&tensor(3, 2), &[2], &[2]).unwrap()), own);
    assert_eq!(rows(&group.broadcast(tensor(3, 2), 0).unwrap()), own);
    group.barrier().unwrap();
    group.abort_handle().abort();
    for error in [
        group.all_gather_v(&tensor(3, 2), &[1]).unwrap_err(),
        group.broadcast(tensor(3, 2), 1).unwrap_err(),
        group.send(&tensor(3, 2), 0).unwrap_err(),
        group.recv((1, 1), DType::F32, 1).unwrap_err(),
    ] {
        assert!(matches!(error, CollectiveError::Misuse { .. }), "{error}");
    }
}
