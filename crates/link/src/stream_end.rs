//! The reasons of a stream's early end, as both sides know them.

use crate::close::PeerLost;

/// The reason why a stream was given up, as a code that the other side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamCode {
    /// The owner of the stream dropped it.
    Cancelled,
    /// This kind of stream is not served.
    NotServed,
    /// The bytes were no frames, or not of the right kind.
    Malformed,
}

/// The reason why bytes were not taken, or did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The other side gave the stream up.
    GivenUp(StreamCode),
    /// The connection of the stream was lost.
    Lost(PeerLost),
}

// === impl StreamCode ===

impl StreamCode {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Cancelled => 0,
            Self::NotServed => 1,
            Self::Malformed => 2,
        }
    }

    pub(crate) fn from_number(number: u64) -> Self {
        match number {
            1 => Self::NotServed,
            2 => Self::Malformed,
            _ => Self::Cancelled,
        }
    }
}
