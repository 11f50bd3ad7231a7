//! The first words on a connection.
//!
//! Each side sends a preface of [`PREFACE_BYTES`] bytes, which has the same form in every version,
//! then one frame: the dialler a [`Hello`], the other side a [`HelloReply`].

use playhouse_types::Epoch;

use crate::message::message;
use crate::{BadName, PROTOCOL_VERSION, PeerId, Request, Role};

/// Bytes before the first frame of a hello.
pub const PREFACE_BYTES: usize = 8;

const MAGIC: [u8; 4] = *b"PLAY";

/// Who is speaking.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Hello {
    /// Must be the role of the certificate.
    pub role: Role,
    /// Must be the name of the certificate; see [`Hello::peer`].
    pub name: String,
    /// Which start of this process it is: no two have the same number.
    pub incarnation: u64,
    /// The epoch it belongs to. A node or head that belongs to none says 0.
    pub epoch: Epoch,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum HelloReply {
    /// The connection stands.
    Welcome(Hello),
    /// It does not; the connection closes after this.
    Refused(Refusal),
}

/// Why a peer is not let in.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum Refusal {
    /// The hello says another name than the certificate.
    #[error("the certificate is of {certificate}, but the hello says {hello}")]
    OtherIdentity {
        /// Role and name of the certificate.
        certificate: String,
        /// Role and name of the hello.
        hello: String,
    },
    /// Another process of the same name is connected.
    #[error(
        "the name {name} is taken: a process at {address} is connected under it; stop one of the two, \
         or let one of them join under another name and from another folder"
    )]
    DuplicateName {
        /// Role and name.
        name: String,
        /// Where the process that is connected comes from.
        address: String,
    },
    /// It belongs to an epoch that is over.
    #[error("{given} is over; the current one is {current}")]
    StaleEpoch {
        /// The epoch of the hello.
        given: Epoch,
        /// The epoch now.
        current: Epoch,
    },
    /// Nobody waits for such a peer.
    #[error("not expected here: {0}")]
    Unexpected(String),
    /// As many peers are connected as are allowed.
    #[error("{0} peers are connected, which is the limit; stop some of them")]
    Full(u32),
}

/// Why a preface is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// Something else speaks.
    #[error("the peer does not speak this protocol: its first bytes are {0:02x?}")]
    Foreign([u8; 4]),
    /// The other side is of another release.
    #[error(
        "the peer speaks protocol version {theirs}, this process {ours}: run the same release on \
         both sides"
    )]
    Version {
        /// [`PROTOCOL_VERSION`].
        ours: u32,
        /// What the preface says.
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
    /// Who the speaker says it is.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn peer(&self) -> Result<PeerId, BadName> {
        PeerId::new(self.role, &self.name)
    }
}

/// What this version sends first.
#[must_use]
pub fn preface() -> [u8; PREFACE_BYTES] {
    preface_of(PROTOCOL_VERSION)
}

/// What another version would send first: for tests.
#[must_use]
pub fn preface_of(version: u32) -> [u8; PREFACE_BYTES] {
    let ([a, b, c, d], [e, f, g, h]) = (MAGIC, version.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Compares the other side's preface with ours.
///
/// # Errors
/// When it is of another protocol or another version of this one.
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
