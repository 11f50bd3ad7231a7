//! Devices, on which ranks run.

use crate::status::Whereabouts;

/// A device on which a rank can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Bytes of memory: the device's own, or its share of the machine's.
    pub memory_bytes: u64,
    /// The number of CPU threads that go with the device.
    pub threads: u32,
}

/// The device of a node that is assigned to one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) node: String,
    /// The index of the device among those that the node offers.
    pub(crate) device: u32,
    /// The number of CPU threads that go with the device.
    pub(crate) threads: u32,
}

// === impl Assignment ===

impl Assignment {
    /// Returns where a process is that runs on this device.
    pub(crate) fn whereabouts(&self, pid: u32) -> Whereabouts {
        let Self { node, device, .. } = self;
        Whereabouts { node: node.clone(), device: format!("cpu:{device}"), pid }
    }
}
