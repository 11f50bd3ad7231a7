//! Calls between the head and a node agent.

use std::fmt;

use crate::Request;
use crate::message::message;

/// A request of the head to a node.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum NodeRequest {
    /// Starts the process of one rank.
    Spawn(Spawn),
    /// Ends a process at once.
    Kill {
        /// The id of the process, as in [`NodeReply::Spawned`].
        pid: u32,
    },
    /// Asks for the state of the node.
    Stats,
}

/// One rank to start.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Spawn {
    /// The shard's name.
    pub name: String,
    /// The index of the device among those that the node offered.
    pub device: u32,
    /// The identity of the shard: an encoded [`crate::IdentityBundle`], for its standard input.
    pub identity: Vec<u8>,
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum NodeReply {
    /// The process runs.
    Spawned {
        /// The id of the process on the node.
        pid: u32,
    },
    /// The process is gone, whether it ran or not.
    Killed,
    /// The answer to [`NodeRequest::Stats`].
    Stats(NodeStats),
    /// The request failed; the text says why, for a person.
    Failed(String),
}

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct NodeStats {
    /// The number of running processes that the node has spawned.
    pub processes: u32,
    /// The number of free bytes of host memory.
    pub memory_free: u64,
}

/// A request of a node to the head.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HeadRequest {
    /// Offers the resources of the node; its first call.
    Offer {
        /// The devices of the node; [`Spawn::device`] is an index into them.
        devices: Vec<Device>,
        /// The number of bytes of host memory.
        memory: u64,
        /// The rank processes that run on the node, whichever head has started them.
        processes: Vec<Running>,
    },
}

/// A rank process of a node.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Running {
    /// The name of the shard, as in [`Spawn::name`].
    pub name: String,
    /// The index of the device, as in [`Spawn::device`].
    pub device: u32,
    /// The id of the process, as in [`NodeReply::Spawned`].
    pub pid: u32,
}

/// A device that a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Device {
    /// The kind of the device.
    pub kind: DeviceKind,
    /// The name of the device, for a person.
    pub name: String,
    /// The number of bytes of the device's own memory; for CPUs the share of the host's.
    pub memory: u64,
    /// The number of CPU threads of the device.
    pub threads: u32,
}

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum DeviceKind {
    /// Cores of the host.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The answer of the head.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HeadReply {
    /// The offer is accepted; ranks may follow.
    Accepted,
    /// The offer is refused; the text says why, for a person.
    Refused(String),
}

message!(NodeRequest, NodeRequest);
message!(NodeReply, NodeReply);
message!(HeadRequest, HeadRequest);
message!(HeadReply, HeadReply);

impl Request for NodeRequest {
    type Reply = NodeReply;
}

impl Request for HeadRequest {
    type Reply = HeadReply;
}

impl fmt::Debug for Spawn {
    /// Formats the spawn without the identity, which holds a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device, .. } = self;
        let mut spawn = f.debug_struct("Spawn");
        spawn.field("name", name).field("device", device).finish_non_exhaustive()
    }
}
