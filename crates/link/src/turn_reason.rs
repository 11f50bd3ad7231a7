//! The reasons why a connection from outside fails.

use playhouse_wire::{DecodeError, JoinRefusal, PrefaceError, Refusal};

use crate::close::PeerLost;

/// The reason why a connection from outside failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnReason {
    /// The client showed no certificate.
    #[error("it has no certificate: join with a token first")]
    NoCertificate,
    /// The certificate is not valid now.
    #[error(
        "{0}; if both clocks are right, `playhouse token create` here and `playhouse node --token` \
         there let a node in again"
    )]
    Expired(String),
    /// The certificate is of the authority, but names no peer.
    #[error("its certificate names no peer")]
    Nameless,
    /// The client speaks another protocol.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// The first message cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The peer was refused, and told why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The token was refused, and the joiner was told why.
    #[error(transparent)]
    NotJoined(#[from] JoinRefusal),
    /// The client was too slow, or stopped sending.
    #[error("it did not finish its greeting in time")]
    Silent,
    /// The connection broke, or TLS failed.
    #[error(transparent)]
    Lost(#[from] PeerLost),
}
