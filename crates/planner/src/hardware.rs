//! The hardware of a cluster: nodes, their devices and the links between them.
//!
//! - **HW-1** a description holds at most [`RANKS_MAX`](crate::RANKS_MAX) devices, each with memory.
//! - **HW-2** a description that is refused gives one [`HardwareError`], which names the piece, the value
//!   found and the values allowed. No text panics.
//!
//! Two spellings: `2x8xH100` (nodes × devices × type; `8xH100` and `H100` are one node; a list with
//! commas mixes) and TOML:
//!
//! ```toml
//! [[nodes]]
//! name = "a"                # with `count` above 1: a-0, a-1, …
//! count = 2                 # nodes alike; default 1
//! devices = 8
//! device = "H100"
//! memory_gib = 80           # instead of the type's
//! domain = "rack-1"         # nodes of one domain share the fast link; default: each its own
//! network_gbit = 400        # per device, instead of the type's
//! network_latency_us = 30   # of a small collective of two nodes, instead of the type's
//! ```

mod device;

use playhouse_layout::DeviceIndex;
use serde::Deserialize;

pub use self::device::DeviceType;
use crate::{Machine, Placement, RANKS_MAX};

/// The nodes of a cluster, in a fixed order.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    /// The nodes; at least one.
    pub nodes: Vec<Node>,
}

/// A machine with equal devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name, unique in the cluster.
    pub name: String,
    /// Number of devices.
    pub devices: u32,
    /// Index of the first of these devices on the machine.
    pub first_device: u32,
    /// Type of the devices.
    pub device: DeviceType,
    /// Nodes of one domain reach each other's devices over the fast link.
    pub domain: String,
}

/// Why a description of hardware was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    /// A piece of a description like `2x8xH100` cannot be read.
    #[error(
        "hardware `{piece}`: {reason}; write NODESxDEVICESxTYPE such as 2x8xH100, or a list of these with commas"
    )]
    Piece {
        /// The piece.
        piece: String,
        /// Description of the error.
        reason: String,
    },
    /// A device type that the table does not have.
    #[error("unknown device `{found}`: known are {}", DeviceType::names().collect::<Vec<_>>().join(", "))]
    Device {
        /// The name given.
        found: String,
    },
    /// More devices than can be planned.
    #[error("hardware: {devices} devices, at most {RANKS_MAX} can be planned")]
    TooLarge {
        /// Number of devices.
        devices: u64,
    },
    /// Two nodes with the same name.
    #[error("hardware: two nodes are named `{name}`; give each its own")]
    SameName {
        /// The name.
        name: String,
    },
    /// The TOML cannot be read.
    #[error("{0}")]
    Toml(String),
}

/// The TOML file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HardwareFile {
    nodes: Vec<Entry>,
}

/// One entry of the TOML file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    name: String,
    #[serde(default = "one")]
    count: u32,
    devices: u32,
    device: String,
    memory_gib: Option<u32>,
    domain: Option<String>,
    network_gbit: Option<u32>,
    network_latency_us: Option<u32>,
}

fn one() -> u32 {
    1
}

// === impl Hardware ===

impl Hardware {
    /// Reads a description like `4xL40S,2x8xA100`.
    ///
    /// # Errors
    /// When a piece is malformed, a type unknown, or there are too many devices (**HW-2**).
    pub fn parse(text: &str) -> Result<Self, HardwareError> {
        let mut nodes = Vec::new();
        let mut devices = 0u64;
        for piece in text.split(',').map(str::trim) {
            let (count, per_node, device) = parse_piece(piece)?;
            devices = devices.saturating_add(u64::from(count) * u64::from(per_node));
            // Before the nodes are made: a count may be huge.
            if devices > RANKS_MAX {
                return Err(HardwareError::TooLarge { devices });
            }
            for at in 0..count {
                let name = format!("node-{}", nodes.len());
                let domain = match device.domain_devices {
                    Some(most) => {
                        let domain = u64::from(at) * u64::from(per_node) / u64::from(most.max(1));
                        format!("{piece}-{domain}")
                    }
                    None => name.clone(),
                };
                nodes.push(Node { name, devices: per_node, first_device: 0, device, domain });
            }
        }
        Ok(Self { nodes })
    }

    /// Reads the TOML form.
    ///
    /// # Errors
    /// As [`Hardware::parse`], and when two nodes have the same name.
    pub fn from_toml(text: &str) -> Result<Self, HardwareError> {
        let file: HardwareFile =
            toml::from_str(text).map_err(|error| HardwareError::Toml(error.to_string()))?;
        Self::from_entries(&file.nodes)
    }

    pub(crate) fn from_entries(entries: &[Entry]) -> Result<Self, HardwareError> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut devices = 0u64;
        for entry in entries {
            devices = devices.saturating_add(u64::from(entry.count) * u64::from(entry.devices));
            if devices > RANKS_MAX || u64::from(entry.count) > RANKS_MAX {
                return Err(HardwareError::TooLarge { devices: devices.max(entry.count.into()) });
            }
            let device = entry.device_type()?;
            for at in 0..entry.count {
                let alone = entry.count == 1;
                let name = if alone { entry.name.clone() } else { format!("{}-{at}", entry.name) };
                let domain = entry.domain.clone().unwrap_or_else(|| name.clone());
                let devices = entry.devices;
                nodes.push(Node { name, devices, first_device: 0, device, domain });
            }
        }
        if nodes.iter().all(|node| node.devices == 0) {
            return Err(HardwareError::Toml("no node has a device; give `devices`".to_owned()));
        }
        let mut names: Vec<_> = nodes.iter().map(|node| &node.name).collect();
        names.sort_unstable();
        match names.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(HardwareError::SameName { name: two[0].clone() }),
            None => Ok(Self { nodes }),
        }
    }

    /// Returns the number of devices of all nodes.
    #[must_use]
    pub fn devices(&self) -> u64 {
        self.nodes.iter().map(|node| u64::from(node.devices)).sum()
    }

    /// Returns the devices that are left beside `placement`: those of each node after the last in use.
    #[must_use]
    pub fn left(&self, placement: &Placement) -> Self {
        let mut nodes = self.nodes.clone();
        for (at, node) in nodes.iter_mut().enumerate() {
            let here = placement.devices.iter().filter(|device| device.node as usize == at);
            let used = here.map(|device| device.device.saturating_add(1)).max().unwrap_or(0);
            let used = used.min(node.devices);
            node.devices -= used;
            node.first_device = node.first_device.saturating_add(used);
        }
        Self { nodes }
    }

    /// Takes the smallest value of each quantity over all devices, because the weakest device limits a
    /// layout.
    #[must_use]
    pub fn slowest(&self) -> Option<DeviceType> {
        let used = self.nodes.iter().filter(|node| node.devices > 0);
        used.map(|node| node.device).reduce(DeviceType::least)
    }

    /// Returns the number of devices of the smallest domain.
    #[must_use]
    pub fn domain_devices(&self) -> u64 {
        self.domains().iter().map(|devices| devices.len() as u64).min().unwrap_or(0)
    }

    /// Returns the devices of each domain, domains in the order of their first node; domains without devices
    /// are left out.
    #[must_use]
    pub fn domains(&self) -> Vec<Vec<DeviceIndex>> {
        Machine::domains(&self.machines())
    }

    /// Returns the nodes in the form that a placement uses.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        let machine = |Node { name, devices, domain, .. }: &Node| Machine {
            name: name.clone(),
            devices: *devices,
            domain: domain.clone(),
        };
        self.nodes.iter().map(machine).collect()
    }
}

// === impl Entry ===

impl Entry {
    fn device_type(&self) -> Result<DeviceType, HardwareError> {
        let mut device = device_type(&self.device)?;
        if let Some(memory) = self.memory_gib {
            if memory == 0 {
                let reason = format!("node `{}`: memory_gib is 0, at least 1 is needed", self.name);
                return Err(HardwareError::Toml(reason));
            }
            device.memory_bytes = u64::from(memory) << 30;
        }
        if let Some(network) = self.network_gbit {
            device.network_bandwidth = f64::from(network.max(1)) * 1e9 / 8.0;
        }
        if let Some(latency) = self.network_latency_us {
            device.network_latency = f64::from(latency) * 1e-6;
        }
        Ok(device)
    }
}

fn device_type(name: &str) -> Result<DeviceType, HardwareError> {
    DeviceType::find(name).ok_or_else(|| HardwareError::Device { found: name.to_owned() })
}

/// Parses nodes, devices per node and type of `2x8xH100`.
fn parse_piece(piece: &str) -> Result<(u32, u32, DeviceType), HardwareError> {
    let refuse = |reason: String| HardwareError::Piece { piece: piece.to_owned(), reason };
    let mut counts = Vec::new();
    let mut rest = piece;
    while let Some((number, after)) = rest.split_once(['x', 'X', '×']) {
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
        match number.parse::<u32>() {
            Ok(count @ 1..) => counts.push(count),
            Ok(0) => return Err(refuse("a count is 0".to_owned())),
            Err(_) => return Err(refuse(format!("{number} is too large"))),
        }
        rest = after;
    }
    if rest.is_empty() {
        return Err(refuse("the device type is missing".to_owned()));
    }
    let device = device_type(rest)?;
    match counts[..] {
        [] => Ok((1, 1, device)),
        [devices] => Ok((1, devices, device)),
        [nodes, devices] => Ok((nodes, devices, device)),
        _ => Err(refuse(format!("{} counts, at most two are read", counts.len()))),
    }
}
