//! Signals: the first SIGTERM or SIGINT drains the server, the second stops it at once.

use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit status after a second signal: that of a process killed by SIGTERM.
const STOPPED_AT_ONCE: i32 = 143;

/// The signals that end a server.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    /// Installs handlers of SIGTERM and SIGINT for the process.
    ///
    /// # Errors
    /// Returns an error when the handlers cannot be installed.
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

    /// Makes the next signal end the process at once.
    pub(crate) fn stop_at_next(mut self) {
        tokio::spawn(async move {
            self.next().await;
            process::exit(STOPPED_AT_ONCE);
        });
    }
}
