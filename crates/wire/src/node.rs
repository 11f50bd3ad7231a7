//! Calls between the head and a node agent.

use std::fmt;

use crate::Request;
use crate::message::message;

/// The head asks a node.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum NodeRequest {
    /// Start the process of one rank.
    Spawn(Spawn),
    /// End a process at once.
    Kill {
        /// As in [`NodeReply::Spawned`].
        pid: u32,
    },
    /// How the node is.
    Stats,
}

/// One rank to start.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Spawn {
    /// The shard's name.
    pub name: String,
    /// One of the devices the node offered.
    pub device: u32,
    /// The shard's identity: an encoded [`crate::IdentityBundle`], for its standard input.
    pub identity: Vec<u8>,
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum NodeReply {
    /// The process runs.
    Spawned {
        /// Its id on the node.
        pid: u32,
    },
    /// The process is gone, whether it ran or not.
    Killed,
    /// The answer to [`NodeRequest::Stats`].
    Stats(NodeStats),
    /// It was not done; the text says why, for a person.
    Failed(String),
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct NodeStats {
    /// Processes it has spawned that run.
    pub processes: u32,
    /// Bytes of host memory that are free.
    pub memory_free: u64,
}

/// A node asks the head.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HeadRequest {
    /// What the node brings; its first call.
    Offer {
        /// Its devices; [`Spawn::device`] is an index into them.
        devices: Vec<Device>,
        /// Bytes of host memory.
        memory: u64,
        /// Rank processes that run there, whichever head has started them.
        processes: Vec<Running>,
    },
}

/// A rank process of a node.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Running {
    /// As in [`Spawn::name`].
    pub name: String,
    /// As in [`Spawn::device`].
    pub device: u32,
    /// As in [`NodeReply::Spawned`].
    pub pid: u32,
}

/// One thing a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// Its name, for a person.
    pub name: String,
    /// Bytes of its own memory; for CPUs the share of the host's.
    pub memory: u64,
    /// CPU threads that go with it.
    pub threads: u32,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum DeviceKind {
    /// Cores of the host.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The head's answer.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HeadReply {
    /// The offer is taken; ranks may follow.
    Accepted,
    /// It is not; the text says why, for a person.
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
    /// Without the identity, which holds a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device, .. } = self;
        let mut spawn = f.debug_struct("Spawn");
        spawn.field("name", name).field("device", device).finish_non_exhaustive()
    }
}
