//! Why a connection from outside comes to nothing.

use playhouse_wire::{DecodeError, JoinRefusal, PrefaceError, Refusal};

use crate::close::PeerLost;

/// Why a connection came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnReason {
    /// It showed no certificate.
    #[error("it has no certificate: join with a token first")]
    NoCertificate,
    /// Its certificate is not good now.
    #[error(
        "{0}; if both clocks are right, `playhouse token create` here and `playhouse node --token` \
         there let a node in again"
    )]
    Expired(String),
    /// Its certificate is of the authority, but names no peer.
    #[error("its certificate names no peer")]
    Nameless,
    /// It speaks something else.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// Its first message cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It was refused, and told why.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its token was refused, and it was told why.
    #[error(transparent)]
    NotJoined(#[from] JoinRefusal),
    /// It was too slow, or stopped talking.
    #[error("it did not finish its greeting in time")]
    Silent,
    /// The connection broke, or TLS failed.
    #[error(transparent)]
    Lost(#[from] PeerLost),
}
