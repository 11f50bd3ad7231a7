//! Why streams end before their last byte, as both sides know it.

use crate::close::PeerLost;

/// Why a stream was given up; the other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamCode {
    /// Its owner dropped it.
    Cancelled,
    /// Nobody serves this kind of stream.
    NotServed,
    /// Its bytes were no frames, or not of the right kind.
    Malformed,
}

/// Why bytes were not taken, or did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The other side gave the stream up.
    GivenUp(StreamCode),
    /// With its connection.
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
