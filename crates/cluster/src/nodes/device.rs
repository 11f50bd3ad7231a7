//! What ranks run on.

use crate::status::Whereabouts;

/// Something a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Bytes of memory: its own, or its share of the machine's.
    pub memory_bytes: u64,
    /// CPU threads that go with it.
    pub threads: u32,
}

/// A device of a node, for one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) node: String,
    /// An index into what the node offers.
    pub(crate) device: u32,
    /// CPU threads that go with it.
    pub(crate) threads: u32,
}

// === impl Assignment ===

impl Assignment {
    /// Where a process is that sits there.
    pub(crate) fn whereabouts(&self, pid: u32) -> Whereabouts {
        let Self { node, device, .. } = self;
        Whereabouts { node: node.clone(), device: format!("cpu:{device}"), pid }
    }
}
