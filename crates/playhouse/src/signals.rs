//! Signals: the first SIGTERM or SIGINT drains the server, the second stops it at once.

use std::fmt;
use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// A signal that ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopSignal {
    /// SIGTERM, from a supervisor.
    Terminate,
    /// SIGINT, from Ctrl-C on a terminal.
    Interrupt,
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

    /// Waits for one signal and returns it.
    pub(crate) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
        }
    }

    /// Makes the next signal end the process at once.
    pub(crate) fn stop_at_next(mut self) {
        tokio::spawn(async move {
            let signal = self.next().await;
            process::exit(signal.exit_status().into());
        });
    }
}

// === impl StopSignal ===

impl StopSignal {
    /// Returns the exit status of a process that this signal ended, as shells count it.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}
