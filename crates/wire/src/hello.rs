//! The first messages on a connection.
//!
//! Each side sends a preface of [`PREFACE_BYTES`] bytes, which has the same form in every version,
//! then one frame: the dialler a [`Hello`], the other side a [`HelloReply`].

use playhouse_types::Epoch;

use crate::message::message;
use crate::{BadName, PeerId, Request, Role};

/// The version of every message of this crate. Any change of their bytes increases it.
pub const PROTOCOL_VERSION: u32 = 1;

/// The number of bytes before the first frame of a hello.
pub const PREFACE_BYTES: usize = 8;

const MAGIC: [u8; 4] = *b"PLAY";

/// The first message of each side: its identity and its epoch.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Hello {
    /// The role, which must be that of the certificate.
    pub role: Role,
    /// The name, which must be that of the certificate; see [`Hello::peer`].
    pub name: String,
    /// The number of this start of the process; no two starts have the same number.
    pub incarnation: u64,
    /// The epoch that the process belongs to; 0 for a node or head, which belongs to none.
    pub epoch: Epoch,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HelloReply {
    /// The peer is admitted.
    Welcome(Hello),
    /// The peer is refused; the connection closes after this.
    Refused(Refusal),
}

/// The reason why a peer is not admitted.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum Refusal {
    /// The hello has another name than the certificate.
    #[error("the certificate is of {certificate}, but the hello says {hello}")]
    OtherIdentity {
        /// The role and the name of the certificate.
        certificate: String,
        /// The role and the name of the hello.
        hello: String,
    },
    /// Another process of the same name is connected.
    #[error(
        "the name {name} is taken: a process at {address} is connected under it; stop one of the two, \
         or let one of them join under another name and from another folder"
    )]
    DuplicateName {
        /// The role and the name.
        name: String,
        /// The address of the connected process.
        address: String,
    },
    /// The peer belongs to an epoch that is over.
    #[error("{given} is over; the current one is {current}")]
    StaleEpoch {
        /// The epoch of the hello.
        given: Epoch,
        /// The current epoch.
        current: Epoch,
    },
    /// The head does not wait for such a peer.
    #[error("not expected here: {0}")]
    Unexpected(String),
    /// The maximum number of peers is connected.
    #[error("{0} peers are connected, which is the limit; stop some of them")]
    Full(u32),
}

/// The reason why a preface is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The other side speaks another protocol.
    #[error("the peer does not speak this protocol: its first bytes are {0:02x?}")]
    Foreign([u8; 4]),
    /// The other side is of another release.
    #[error(
        "the peer speaks protocol version {theirs}, this process {ours}: run the same release on \
         both sides"
    )]
    Version {
        /// The version of this process, [`PROTOCOL_VERSION`].
        ours: u32,
        /// The version in the peer's preface.
        theirs: u32,
    },
}

message!(Hello, Hello);
message!(HelloReply, HelloReply);

impl Request for Hello {
    type Reply = HelloReply;
}

// === impl Hello ===

impl Hello {
    /// Returns the identity that the sender claims.
    ///
    /// # Errors
    /// Returns a [`BadName`] when the name is not allowed.
    pub fn peer(&self) -> Result<PeerId, BadName> {
        PeerId::new(self.role, &self.name)
    }
}

/// Returns the preface of this version.
#[must_use]
pub fn preface() -> [u8; PREFACE_BYTES] {
    preface_of(PROTOCOL_VERSION)
}

/// Returns the preface of another version, for tests.
#[must_use]
pub fn preface_of(version: u32) -> [u8; PREFACE_BYTES] {
    let ([a, b, c, d], [e, f, g, h]) = (MAGIC, version.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Compares the other side's preface with ours.
///
/// # Errors
/// Returns a [`PrefaceError`] when the preface is of another protocol or another version of this one.
pub fn check_preface(given: [u8; PREFACE_BYTES]) -> Result<(), PrefaceError> {
    let [m0, m1, m2, m3, version @ ..] = given;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(PrefaceError::Foreign([m0, m1, m2, m3]));
    }
    let theirs = u32::from_le_bytes(version);
    if theirs != PROTOCOL_VERSION {
        return Err(PrefaceError::Version { ours: PROTOCOL_VERSION, theirs });
    }
    Ok(())
}
