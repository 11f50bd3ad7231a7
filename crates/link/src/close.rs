//! The reasons of a connection's end, as both sides know them.

/// The reason why a connection ended, as a code that the other side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// The connection is no longer needed.
    Bye,
    /// The same start of the peer has connected again.
    Superseded,
    /// The other side broke the protocol, as the reason says.
    Protocol,
}

/// The reason why a peer is no longer connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerLost {
    /// No packet of the peer came for the idle timeout.
    #[error("nothing was heard from the peer for the idle timeout")]
    TimedOut,
    /// The peer ended the connection.
    #[error("the peer closed the connection: {0}")]
    Closed(String),
    /// This side ended the connection.
    #[error("the connection was closed here")]
    Local,
    /// The same process has connected again, because it had lost this connection.
    #[error("a new connection of the same process has taken its place")]
    Superseded,
    /// One side broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// A certificate was not accepted.
    #[error("certificate refused: {0}")]
    Certificate(String),
    /// The peer does not accept our certificate, because it has expired, or is not valid yet.
    #[error("the peer refuses this process's certificate: {0}")]
    Expired(String),
    /// The machine answers, but does not know the connection: the process at the address is another one
    /// now, or one of the two sides was stopped for longer than the idle timeout.
    #[error("the peer has forgotten the connection: it gave it up, or its process is a new one")]
    Reset,
}

// === impl CloseCode ===

impl CloseCode {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Bye => 0,
            Self::Superseded => 1,
            Self::Protocol => 2,
        }
    }

    /// Returns the reason that the other side derives from a code.
    pub(crate) fn heard(number: u64, reason: String) -> PeerLost {
        match number {
            1 => PeerLost::Superseded,
            2 => PeerLost::Protocol(reason),
            _ => PeerLost::Closed(reason),
        }
    }
}
