use std::sync::Barrier;

use super::*;

fn threads(count: usize) -> Threads {
    Threads::new(NonZeroUsize::new(count).expect("not zero"))
}

fn counts(threads: &Threads, tasks: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    threads.run(tasks, |task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

/// TH-1, also with more threads than this machine has cores.
#[test]
fn every_task_runs_once() {
    for count in [1, 2, 3, 17] {
        let threads = threads(count);
        assert_eq!(threads.count(), count);
        for tasks in [0, 1, 2, 3, 100] {
            for _ in 0..50 {
                assert_eq!(counts(&threads, tasks), vec![1; tasks]);
            }
        }
    }
}

#[test]
fn all_threads_take_part() {
    let threads = threads(4);
    // Passes only when four tasks are in progress at once.
    let barrier = Barrier::new(4);
    threads.run(4, |_| {
        barrier.wait();
    });
}

/// TH-1.
#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let threads = threads(3);
    for round in 0..50 {
        let panic = catch_unwind(AssertUnwindSafe(|| {
            threads.run(64, |task| assert!(task != round, "task {round} of 64"));
        }));
        let payload = panic.expect_err("the task panicked");
        let text = payload.downcast_ref::<String>().expect("a formatted message");
        assert_eq!(*text, format!("task {round} of 64"));
        assert_eq!(counts(&threads, 9), [1; 9]);
    }
}

/// TH-3.
#[test]
fn callers_take_turns() {
    let threads = threads(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(counts(&threads, 13), [1; 13]);
                }
            });
        }
    });
}

/// TH-3.
#[test]
fn a_call_from_inside_a_task_runs_there() {
    let threads = threads(2);
    threads.run(4, |_| assert_eq!(counts(&threads, 5), [1; 5]));
}

#[test]
fn the_last_handle_ends_the_threads() {
    let threads = threads(3);
    let shared = Arc::downgrade(&threads.pool.shared);
    let clone = threads.clone();
    drop(threads);
    assert_eq!(counts(&clone, 5), [1; 5]);
    drop(clone);
    assert_eq!(shared.strong_count(), 0, "workers have let go");
}

#[test]
fn ranges_cover_everything_once() {
    let threads = threads(2);
    for (len, grain) in [(0, 3), (1, 3), (9, 3), (10, 3)] {
        let seen: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
        threads.run_ranges(len, grain, |range| {
            assert!(range.len() <= grain);
            for index in range {
                seen[index].fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}
