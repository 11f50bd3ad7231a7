//! How a group ends: at once, on every rank, with one cause.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use playhouse_collectives::{CollectiveError, Group};

use crate::ranks::{Moment, PATIENCE, blank, cast, layouts, values};

/// Of those who wait in vain; long enough for all to begin, on a machine that is busy with others.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What waits for rank 2, which does not come, in every kind of operation.
fn wait_for_rank_2(group: &Group, way: usize) -> CollectiveError {
    let (input, mut output) = (values::<f32>(group.rank(), 40_009), blank::<f32>(40_009));
    match way {
        0 => group.all_reduce(&input, &mut output),
        1 => group.recv(&mut output, 2),
        // Until everything on the way is full.
        2 => loop {
            if let Err(error) = group.send(&input, 2) {
                break Err(error);
            }
        },
        3 => group.broadcast(&mut output, 2),
        _ => group.barrier(),
    }
    .unwrap_err()
}

/// **CO-3**: from another thread, whatever the ranks are doing.
#[test]
fn an_abort_ends_every_wait_and_every_later_call() {
    for machines in layouts(3) {
        for way in 0..5 {
            cast(&machines).play(|group| {
                let aborted = CollectiveError::Aborted { by: 2 };
                if group.rank() == 2 {
                    let handle = group.abort_handle();
                    thread::spawn(move || handle.abort()).join().unwrap();
                } else {
                    assert_eq!(wait_for_rank_2(&group, way), aborted, "{machines:?} {way}");
                }
                assert_eq!(group.barrier(), Err(aborted.clone()));
                assert_eq!(group.send(&[1u8], (group.rank() + 1) % 3), Err(aborted));
            });
        }
    }
}

/// **WA-2**, **WA-3**: a rank that needs more than was written is told that nothing follows.
#[test]
fn a_rank_that_left_is_lost_to_those_who_wait_for_it() {
    for machines in layouts(2) {
        cast(&machines).play(|group| {
            if group.rank() == 1 {
                return group.send(&[7u32], 0).unwrap();
            }
            let mut data = [0u32];
            group.recv(&mut data, 1).unwrap();
            assert_eq!(data, [7], "what was sent before still comes");
            let lost = CollectiveError::PeerLost { rank: 1 };
            assert_eq!(group.recv(&mut data, 1), Err(lost.clone()), "{machines:?}");
            assert_eq!(group.barrier(), Err(lost));
        });
    }
}

/// A panic in the middle of a rank is a rank that left.
#[test]
fn a_rank_that_panics_is_lost() {
    cast(&[0, 0]).play(|group| {
        if group.rank() == 1 {
            let panicked = thread::spawn(move || {
                let _group = group;
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            panicked.join().unwrap_err();
        } else {
            assert_eq!(group.barrier(), Err(CollectiveError::PeerLost { rank: 1 }));
        }
    });
}

/// **WA-1**: the rank is there, but does not call.
#[test]
fn a_wait_ends_at_the_timeout_for_everybody() {
    for machines in layouts(3) {
        let over = Barrier::new(3);
        let mut cast = cast(&machines);
        cast.spec.timeout = TIMEOUT;
        cast.play(|group| {
            if group.rank() == 2 {
                over.wait();
            } else {
                let error = wait_for_rank_2(&group, 4);
                assert!(matches!(error, CollectiveError::TimedOut { .. }), "{error}");
                over.wait();
            }
            // Across machines rank 2 may still find the messages of those who gave up.
            let error = group.barrier().and_then(|()| group.barrier()).unwrap_err();
            let CollectiveError::TimedOut { by, on, timeout } = error else {
                panic!("{error} on {machines:?}");
            };
            assert!(by != 2 && on == 2 && timeout == TIMEOUT);
        });
    }
}

/// **LA-1**
#[test]
fn ranks_that_call_different_operations_are_told_so() {
    type Call = fn(&Group) -> Result<(), CollectiveError>;
    let calls: [Call; 4] = [
        |group| group.all_reduce(&[1f32; 4], &mut [0f32; 4]),
        |group| group.all_reduce(&[1f32; 5], &mut [0f32; 5]),
        |group| group.all_gather_v(&[1f32; 4], &[4, 4], &mut [0f32; 8]),
        |group| group.all_reduce(&[half::f16::ONE; 8], &mut [half::f16::ZERO; 8]),
    ];
    for machines in layouts(2) {
        for other in 1..calls.len() {
            let errors = cast(&machines).play(|group| {
                let error = calls[other * group.rank()](&group).unwrap_err();
                (group.barrier().unwrap_err(), error)
            });
            for (later, error) in errors {
                let CollectiveError::Mismatch { .. } = error else { panic!("{error}") };
                assert!(matches!(later, CollectiveError::Mismatch { .. }), "{later}");
            }
        }
    }
}

#[test]
fn misuse_is_refused_and_harms_nobody() {
    cast(&[0, 0]).play(|group| {
        let refused = [
            group.all_reduce(&[1f32], &mut []),
            group.all_gather_v(&[1u8], &[1], &mut [0u8]),
            group.all_gather_v(&[1u8], &[1, usize::MAX], &mut [0u8]),
            group.reduce_scatter_v(&[1f32; 3], &[1, 1], &mut [0f32]),
            group.all_to_all_v(&[1u8; 2], &[1, 1], &mut [0u8; 4], &[2, 2]),
            group.broadcast(&mut [0u8], 2),
            group.send(&[1u8], group.rank()),
            group.recv(&mut [1u8], 2),
        ];
        for refusal in refused {
            let error = refusal.unwrap_err();
            assert!(matches!(error, CollectiveError::Misuse { .. }), "{error}");
        }
        group.barrier().unwrap();
    });
}

#[test]
fn groups_of_the_same_ranks_do_not_touch_each_other() {
    for machines in layouts(3) {
        let (first, second) = (cast(&machines), cast(&machines));
        let aborted = Barrier::new(3);
        first.play(|one| {
            let two = second.join(one.rank()).unwrap();
            for len in [1, 997, 40_009] {
                let (mut sum, mut other) = (blank::<f32>(len), blank::<f32>(len));
                one.all_reduce(&vec![1.0; len], &mut sum).unwrap();
                two.all_reduce(&vec![2.0; len], &mut other).unwrap();
                assert!(sum == vec![3.0; len] && other == vec![6.0; len]);
            }
            if one.rank() == 0 {
                one.abort_handle().abort();
            }
            assert_eq!(one.barrier(), Err(CollectiveError::Aborted { by: 0 }));
            two.barrier().unwrap();
            aborted.wait();
        });
    }
}

/// Dropping a group that waits for nobody does not wait.
#[test]
fn leaving_does_not_wait_for_a_rank_that_does_not_read() {
    let done = Barrier::new(2);
    let mut cast = cast(&[0, 1]);
    cast.spec.timeout = PATIENCE;
    cast.play(|group| {
        if group.rank() == 0 {
            // Fits into the rings of both ends.
            group.send(&[1u8; 8_000], 1).unwrap();
            drop(group);
            done.wait();
        } else {
            done.wait();
            let mut data = [0u8; 8_000];
            group.recv(&mut data, 0).unwrap();
            assert_eq!(data, [1; 8_000]);
        }
    });
}

/// Nor does dropping one that is over, whatever is stuck on the way.
#[test]
fn an_aborted_rank_does_not_wait_for_a_peer_that_does_not_read() {
    let done = Barrier::new(2);
    let mut cast = cast(&[0, 1]);
    cast.spec.timeout = 10 * PATIENCE;
    let start = Moment::now();
    cast.play(|group| {
        if group.rank() == 0 {
            let (handle, sent) = (group.abort_handle(), Arc::new(AtomicUsize::new(0)));
            let count = Arc::clone(&sent);
            let sender = thread::spawn(move || {
                let error = loop {
                    if let Err(error) = group.send(&[1u8; 64 << 10], 1) {
                        break error;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                };
                assert_eq!(error, CollectiveError::Aborted { by: 0 });
                drop(group);
            });
            until_unchanged(&sent);
            handle.abort();
            sender.join().unwrap();
        }
        done.wait();
    });
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

/// Waits until a count has been above zero and the same for a while.
fn until_unchanged(count: &AtomicUsize) {
    let (mut last, mut since) = (0, Moment::now());
    while last == 0 || since.elapsed() < Duration::from_millis(300) {
        let now = count.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Moment::now());
        }
        thread::yield_now();
    }
}
