//! The hardware on which ops run.

use crate::Threads;

/// The hardware on which an op computes, given to every op. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Context {
    /// Threads of this process.
    Cpu(Threads),
}

// === impl Context ===

impl From<Threads> for Context {
    fn from(threads: Threads) -> Self {
        Self::Cpu(threads)
    }
}
