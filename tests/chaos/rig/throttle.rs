//! A process that gets a small part of its core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::Signal;

use super::patience::await_for;
use super::process::signal;

/// Stops a process for most of the time. It goes on when this is dropped.
pub(crate) struct Throttled {
    pid: u32,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl Throttled ===

impl Throttled {
    pub(crate) fn begin(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let pause = |millis| {
                let _ = await_for(Duration::from_millis(millis), || false);
            };
            while !ends.load(Ordering::Relaxed) {
                signal(pid, Signal::STOP);
                // Shorter than its link may be silent.
                pause(300);
                signal(pid, Signal::CONT);
                pause(5);
            }
        });
        Self { pid, over, thread: Some(thread) }
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
        signal(self.pid, Signal::CONT);
    }
}
