//! The thread that links run on.

use std::io;
use std::sync::Mutex;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime of one thread, for sockets, timers and framing: a caller that blocks its own runtime
/// must not keep this one from sending keep-alives (**LK-4**).
#[derive(Debug)]
pub(crate) struct LinkThread {
    handle: Handle,
    /// Taken when dropped.
    runtime: Mutex<Option<Runtime>>,
}

// === impl LinkThread ===

impl LinkThread {
    pub(crate) fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).thread_name("link").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Mutex::new(Some(runtime)) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for LinkThread {
    fn drop(&mut self) {
        // Dropping a runtime blocks, which is not allowed where the last peer may be dropped.
        let runtime = self.runtime.get_mut().map(Option::take);
        if let Ok(Some(runtime)) = runtime {
            runtime.shutdown_background();
        }
    }
}
