//! The reasons why the control plane refuses what an operator asks.

/// The reason why there is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// The head was started for this machine alone.
    #[error("this head admits no nodes: start it with --cluster-listen")]
    NotListening,
    /// The system failed; the text says how.
    #[error("cannot make a token: {0}")]
    Failed(String),
}

/// The reason why a node's certificate was not revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRevoked {
    /// The head was started for this machine alone.
    #[error("this head admits no nodes: start it with --cluster-listen")]
    NotListening,
    /// No node can have this name; the text says why.
    #[error("{0}")]
    BadName(String),
    /// The revocation could not be written down, so that a restart would let the node in again.
    #[error("the list of revoked certificates cannot be written, so nothing is changed: {0}")]
    NotKept(String),
}
