//! The kinds of frames: the one table of types, sizes and priorities.

use std::fmt;

/// The type of the message in a frame. The number of a `Kind` is the first byte of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::Hello`].
    Hello = 1,
    /// [`crate::HelloReply`].
    HelloReply = 2,
    /// [`crate::JoinRequest`].
    JoinRequest = 3,
    /// [`crate::JoinReply`].
    JoinReply = 4,
    /// [`crate::IdentityBundle`].
    Identity = 5,
    /// [`crate::RenewRequest`].
    RenewRequest = 6,
    /// [`crate::RenewReply`].
    RenewReply = 7,
    /// [`crate::HeadNote`].
    HeadNote = 16,
    /// [`crate::PeerNote`].
    PeerNote = 17,
    /// [`crate::NodeRequest`].
    NodeRequest = 32,
    /// [`crate::NodeReply`].
    NodeReply = 33,
    /// [`crate::HeadRequest`].
    HeadRequest = 34,
    /// [`crate::HeadReply`].
    HeadReply = 35,
    /// [`crate::ShardCommand`].
    ShardCommand = 48,
    /// [`crate::ShardEvent`].
    ShardEvent = 49,
    /// [`crate::StepCommand`].
    StepCommand = 64,
    /// [`crate::StepEvent`].
    StepEvent = 65,
    /// [`crate::GenerationRequest`].
    GenerationRequest = 80,
    /// [`crate::GenerationEvent`].
    GenerationEvent = 81,
    /// [`crate::BulkOpening`].
    Bulk = 96,
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

// === impl Kind ===

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Hello,
        Self::HelloReply,
        Self::JoinRequest,
        Self::JoinReply,
        Self::Identity,
        Self::RenewRequest,
        Self::RenewReply,
        Self::HeadNote,
        Self::PeerNote,
        Self::NodeRequest,
        Self::NodeReply,
        Self::HeadRequest,
        Self::HeadReply,
        Self::ShardCommand,
        Self::ShardEvent,
        Self::StepCommand,
        Self::StepEvent,
        Self::GenerationRequest,
        Self::GenerationEvent,
        Self::Bulk,
    ];

    /// Returns the kind of this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    /// Returns the maximum number of bytes of a message of this kind (**W-4**).
    #[must_use]
    pub fn bytes_max(self) -> u32 {
        match self {
            // These are read from peers that have not authenticated yet.
            Self::Hello | Self::HelloReply | Self::Bulk => 4 * KIB,
            Self::JoinRequest | Self::JoinReply | Self::Identity => 16 * KIB,
            Self::RenewRequest | Self::RenewReply => 16 * KIB,
            Self::HeadNote | Self::NodeReply | Self::HeadReply | Self::ShardEvent => 64 * KIB,
            Self::PeerNote | Self::NodeRequest | Self::HeadRequest | Self::ShardCommand => MIB,
            // A prompt of a million tokens is 4 MiB; its log-probabilities with one alternative, 20.
            Self::GenerationRequest => 8 * MIB,
            Self::GenerationEvent | Self::StepEvent => 64 * MIB,
            // 256 sequences of 64k tokens that all resume in one step.
            Self::StepCommand => 64 * MIB,
        }
    }

    /// Returns the priority of the kind's streams when a connection is the bottleneck; higher is sooner.
    /// A stream has the priority of the messages that are sent on it.
    #[must_use]
    pub fn priority(self) -> i32 {
        match self {
            Self::StepCommand | Self::StepEvent => 2,
            Self::GenerationRequest | Self::GenerationEvent => 0,
            Self::Bulk => -1,
            _ => 1,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
