//! Requests that are under way until what is tested has happened, however late that is.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Set when dropped, also by a panic: others stop then.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks each question again and again while `act` acts, and at least once; every answer is as
/// `expected`.
pub(crate) fn under_load<A: PartialEq + Debug + Sync, T>(
    expected: &[A],
    ask: impl Fn(u64) -> A + Sync,
    act: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (index, expected) in (0..).zip(expected) {
            let (ask, over) = (&ask, &over);
            scope.spawn(move || {
                loop {
                    assert_eq!(ask(index), *expected, "question {index}");
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let _over = Over(&over);
        act()
    })
}
