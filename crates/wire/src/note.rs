//! The notes on the control stream, in order and without an answer.

use playhouse_types::{Epoch, PrefixEvent};

use crate::message::message;
use crate::{NodeStats, Note};

/// A note of the head.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HeadNote {
    /// The head missed prefix events of a replica, which must begin again with [`PrefixEvent::Reset`].
    ResyncPrefixes {
        /// The replica.
        replica: u32,
    },
    /// The head shuts down: the receiver must end all that the head started.
    Shutdown,
}

/// A note of a node or a shard.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum PeerNote {
    /// A process the node spawned has ended.
    Exited(Exit),
    /// The state of the node; sent from time to time.
    Stats(NodeStats),
    /// A replica's prefix cache has changed.
    Prefix {
        /// The replica.
        replica: u32,
        /// The replica's incarnation.
        epoch: Epoch,
        /// The number of the event: 0, 1, 2 and so on in each epoch. A gap means that events were missed.
        sequence: u64,
        /// The change.
        event: PrefixEvent,
    },
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Exit {
    /// The id of the process, as in [`crate::NodeReply::Spawned`].
    pub pid: u32,
    /// How the process ended.
    pub status: ExitStatus,
    /// The last lines of the process on standard error, for a person; may be empty.
    pub reason: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ExitStatus {
    /// The process exited with this code.
    Code(i32),
    /// This signal killed the process.
    Signal(i32),
}

message!(HeadNote, HeadNote);
message!(PeerNote, PeerNote);

impl Note for HeadNote {}
impl Note for PeerNote {}
