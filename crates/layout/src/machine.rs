//! Machines as a placement sees them: their devices, and the fast links between them.

use serde::{Deserialize, Serialize};

/// A machine with equal devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Name, unique in the cluster.
    pub name: String,
    /// Number of devices.
    pub devices: u32,
    /// Machines of one domain reach each other's devices over the fast link.
    pub domain: String,
}

/// The index of a device: a machine in a list of machines, and a device of that machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceIndex {
    /// Index of the machine.
    pub node: u32,
    /// Index of the device on the machine.
    pub device: u32,
}

// === impl Machine ===

impl Machine {
    /// Returns the devices of each domain, domains in the order of their first machine; domains without
    /// devices are left out.
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
