//! What can go wrong on the way to a peer.

use std::net::SocketAddr;

use playhouse_wire::{DecodeError, PeerId, PrefaceError, Refusal};
use tokio::time::Duration;

use crate::close::PeerLost;
use crate::greeting::{NoGreeting, printable};

/// Why a peer was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The address cannot be dialled from this endpoint.
    #[error("cannot dial {addr}: {why}")]
    Address {
        /// As given.
        addr: SocketAddr,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody knows where the peer is now.
    #[error("no address is known: {0}")]
    NoAddress(String),
    /// Nobody answers, or not in time.
    #[error("no answer from {addr} in {after:?}: is the process running and is UDP let through?")]
    NoAnswer {
        /// As given.
        addr: SocketAddr,
        /// How long was waited at most.
        after: Duration,
    },
    /// One of the two certificates is not of the authority, or of another peer than was dialled.
    #[error("the certificates do not fit: {0}")]
    Certificate(String),
    /// Our certificate is not good now: it has ended, or a clock is wrong.
    #[error(
        "the certificate of {id} is refused: {why}; if both clocks are right, make a token on the \
         head with `playhouse token create` and start its node with it once: `playhouse node --token`"
    )]
    Expired {
        /// Who was to be let in.
        id: String,
        /// What the other side says.
        why: String,
    },
    /// The other side speaks something else, or another version.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// The other side's hello cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The other side says no.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The other side says it is somebody else than its certificate.
    #[error("the certificate is of {expected}, but the hello says {found}")]
    Stranger {
        /// Who was dialled.
        expected: String,
        /// Who answers.
        found: String,
    },
    /// The connection broke during the greeting.
    #[error(transparent)]
    Lost(#[from] PeerLost),
}

// === impl DialError ===

impl DialError {
    /// Whether trying again cannot help, because something must be changed first.
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
                // Who is awaited is known before it is started: nobody will wait for it later.
                Refusal::OtherIdentity { .. }
                | Refusal::DuplicateName { .. }
                | Refusal::StaleEpoch { .. }
                | Refusal::Unexpected(_) => true,
                Refusal::Full(_) => false,
            },
        }
    }

    /// Of a connection that `own` dialled.
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
