//! Why connections end, as both sides know it.

/// Why a connection ended; the other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// Nothing is wrong.
    Bye,
    /// The same start of the peer has connected again.
    Superseded,
    /// The other side broke the protocol, as the reason says.
    Protocol,
}

/// Why a peer is no longer connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerLost {
    /// Nothing was heard for the idle timeout.
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
    /// The peer does not accept our certificate, because it is not good any more, or not yet.
    #[error("the peer refuses this process's certificate: {0}")]
    Expired(String),
    /// The machine answers, but knows nothing of the connection: the process behind the address is
    /// another one now, or one of both sides stood still for longer than the idle timeout.
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

    /// What the other side makes of it.
    pub(crate) fn heard(number: u64, reason: String) -> PeerLost {
        match number {
            1 => PeerLost::Superseded,
            2 => PeerLost::Protocol(reason),
            _ => PeerLost::Closed(reason),
        }
    }
}
