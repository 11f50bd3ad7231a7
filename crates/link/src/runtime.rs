//! The thread that links run on.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime of one thread, for sockets, timers and framing: a caller that blocks its own runtime must
/// not keep this one from sending keep-alives (**LK-4**). Dropping a `LinkThread` ends the thread, and
/// every task on it, without waiting: the last peer may be dropped on this very thread.
#[derive(Debug)]
pub(crate) struct LinkThread {
    handle: Handle,
    /// The thread ends when this sender is dropped.
    _running: oneshot::Sender<()>,
}

// === impl LinkThread ===

impl LinkThread {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel();
        thread::Builder::new().name("link".to_owned()).spawn(move || {
            // Nothing is ever sent: this waits for the sender to be dropped.
            drop(runtime.block_on(ended));
        })?;
        Ok(Self { handle, _running: running })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}
