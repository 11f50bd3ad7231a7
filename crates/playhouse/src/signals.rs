//! Signals: the first SIGTERM or SIGINT drains, the second stops at once.

use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit status after a second signal: that of a process killed by SIGTERM.
const STOPPED_AT_ONCE: i32 = 143;

/// The signals that end a server.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    /// Takes over SIGTERM and SIGINT for the process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one signal and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// From now on the next signal ends the process without waiting for anything.
    pub(crate) fn stop_at_next(mut self) {
        tokio::spawn(async move {
            self.next().await;
            process::exit(STOPPED_AT_ONCE);
        });
    }
}
