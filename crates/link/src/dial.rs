//! The errors of dialling a peer.

use std::net::SocketAddr;

use playhouse_wire::{DecodeError, PeerId, PrefaceError, Refusal};
use tokio::time::Duration;

use crate::close::PeerLost;
use crate::greeting::{NoGreeting, printable};

/// The reason why a peer was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The address cannot be dialled from this endpoint.
    #[error("cannot dial {addr}: {why}")]
    Address {
        /// The given address.
        addr: SocketAddr,
        /// The problem of the address.
        why: String,
    },
    /// The address of the peer cannot be found.
    #[error("no address is known: {0}")]
    NoAddress(String),
    /// The address does not answer, or not in time.
    #[error("no answer from {addr} in {after:?}: is the process running and is UDP let through?")]
    NoAnswer {
        /// The given address.
        addr: SocketAddr,
        /// The maximum wait for an answer.
        after: Duration,
    },
    /// One of the two certificates is not of the authority, or is of another peer than the dialled one.
    #[error("the certificates do not fit: {0}")]
    Certificate(String),
    /// Our certificate is not valid now: it has expired, or a clock is wrong.
    #[error(
        "the certificate of {id} is refused: {why}; if both clocks are right, make a token on the \
         head with `playhouse token create` and start its node with it once: `playhouse node --token`"
    )]
    Expired {
        /// The peer whose certificate was refused.
        id: String,
        /// The reason that the other side gives.
        why: String,
    },
    /// The other side speaks another protocol, or another version of ours.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// The other side's hello cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The other side refuses the peer.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The hello of the other side has another identity than its certificate.
    #[error("the certificate is of {expected}, but the hello says {found}")]
    Stranger {
        /// The dialled peer.
        expected: String,
        /// The peer that answers.
        found: String,
    },
    /// The connection broke during the greeting.
    #[error(transparent)]
    Lost(#[from] PeerLost),
}

// === impl DialError ===

impl DialError {
    /// Returns whether trying again cannot help, because an operator must change something first.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Certificate(_)
            | Self::Expired { .. }
            | Self::Preface(_)
            | Self::Unreadable(_)
            | Self::Stranger { .. } => true,
            Self::NoAddress(_) | Self::NoAnswer { .. } | Self::Lost(_) => false,
            Self::Refused(refusal) => match refusal {
                // An awaited process is known before it is started, so a later attempt does not help.
                Refusal::OtherIdentity { .. }
                | Refusal::DuplicateName { .. }
                | Refusal::StaleEpoch { .. }
                | Refusal::Unexpected(_) => true,
                Refusal::Full(_) => false,
            },
        }
    }

    /// Returns the error for the loss of a connection that `own` dialled.
    pub(crate) fn from_lost(
        lost: PeerLost,
        addr: SocketAddr,
        own: &PeerId,
        after: Duration,
    ) -> Self {
        match lost {
            PeerLost::Expired(why) => Self::Expired { id: own.to_string(), why },
            PeerLost::TimedOut => Self::NoAnswer { addr, after },
            PeerLost::Certificate(why) => Self::Certificate(why),
            lost => Self::Lost(lost),
        }
    }

    pub(crate) fn from_greeting(
        reason: NoGreeting,
        addr: SocketAddr,
        [own, to]: [&PeerId; 2],
        after: Duration,
    ) -> Self {
        match reason {
            NoGreeting::Preface(error) => Self::Preface(error),
            NoGreeting::Unreadable(error) => Self::Unreadable(error),
            NoGreeting::Refused(refusal) => Self::Refused(refusal),
            NoGreeting::Stranger(hello) => {
                let name = printable(&hello.name);
                Self::Stranger { expected: to.to_string(), found: format!("{} {name}", hello.role) }
            }
            NoGreeting::Silent => Self::NoAnswer { addr, after },
            NoGreeting::Lost(lost) => Self::from_lost(lost, addr, own, after),
        }
    }
}
