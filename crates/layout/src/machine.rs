//! Machines as a placement sees them: devices, and which of them share a fast link.

use serde::{Deserialize, Serialize};

/// A machine with equal devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Unique.
    pub name: String,
    /// How many devices.
    pub devices: u32,
    /// Machines of one domain reach each other's devices over the fast link.
    pub domain: String,
}

/// Where a device is: indices into a list of machines and into the devices of that machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceIndex {
    /// Machine.
    pub node: u32,
    /// Device of the machine.
    pub device: u32,
}

// === impl Machine ===

impl Machine {
    /// The devices of each domain, in order of its first machine; domains without devices left out.
    #[must_use]
    pub fn domains(machines: &[Self]) -> Vec<Vec<DeviceIndex>> {
        let mut names: Vec<&str> = Vec::new();
        let mut domains: Vec<Vec<DeviceIndex>> = Vec::new();
        for (machine, node) in machines.iter().zip(0..) {
            let devices = (0..machine.devices).map(|device| DeviceIndex { node, device });
            match names.iter().position(|name| *name == machine.domain) {
                Some(known) => domains[known].extend(devices),
                None => {
                    names.push(&machine.domain);
                    domains.push(devices.collect());
                }
            }
        }
        domains.retain(|devices| !devices.is_empty());
        domains
    }
}
