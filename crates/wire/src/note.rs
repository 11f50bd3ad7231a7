//! What is told on the control stream, in order and without an answer.

use playhouse_types::{Epoch, PrefixEvent};

use crate::message::message;
use crate::{NodeStats, Note};

/// Told by the head.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HeadNote {
    /// The head missed prefix events of a replica: begin again with [`PrefixEvent::Reset`].
    ResyncPrefixes {
        /// The replica.
        replica: u32,
    },
    /// The head goes away: end what it started.
    Shutdown,
}

/// Told by a node or a shard.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum PeerNote {
    /// A process the node spawned has ended.
    Exited(Exit),
    /// How the node is; from time to time.
    Stats(NodeStats),
    /// A replica's prefix cache has changed.
    Prefix {
        /// The replica.
        replica: u32,
        /// Its incarnation.
        epoch: Epoch,
        /// 0, 1, 2 and so on in each epoch. A gap means that events were missed.
        sequence: u64,
        /// The change.
        event: PrefixEvent,
    },
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Exit {
    /// As in [`crate::NodeReply::Spawned`].
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
    /// Its last words on standard error, for a person; may be empty.
    pub reason: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ExitStatus {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

message!(HeadNote, HeadNote);
message!(PeerNote, PeerNote);

impl Note for HeadNote {}
impl Note for PeerNote {}
