//! How a process gets its identity: from another machine with a token, from its parent, or for the one
//! that it has.

use std::fmt;

use crate::message::message;
use crate::{Request, Role};

/// Asks the head for a certificate. Sent to a head whose certificate authority was checked against
/// the token.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct JoinRequest {
    /// Names the token; not secret.
    pub token: [u8; 8],
    /// HMAC-SHA256 under the token's secret of the TLS session's exporter and the request to be
    /// signed. It is of no use in any other session, and the secret never travels.
    pub proof: [u8; 32],
    /// The name the node wants.
    pub name: String,
    /// PKCS#10 request, DER. Only its public key is used.
    pub csr: Vec<u8>,
}

/// The answer to a [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum JoinReply {
    /// The token is used up.
    Granted {
        /// The node's certificate, DER.
        certificate: Vec<u8>,
    },
    /// No certificate.
    Refused(JoinRefusal),
}

/// Why no certificate is given.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum JoinRefusal {
    /// The head knows no such token: it is mistyped, or older than the head's last start.
    #[error("the head knows no such token: make one with `playhouse token create`")]
    UnknownToken,
    /// The token's time is over.
    #[error("the token has expired: make a new one with `playhouse token create`")]
    Expired,
    /// A token lets one node in.
    #[error("the token has been used: make one per node with `playhouse token create`")]
    Used,
    /// The proof was not made with the token's secret.
    #[error("the token's secret is wrong: copy the token again, whole")]
    WrongSecret,
    /// A node that is connected has the name, or one that is expected back.
    #[error(
        "the name {0} is taken by a node that is connected or that ranks wait for: give another \
         --name"
    )]
    NameTaken(String),
    /// The name or the certificate request is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// The process asked has no authority to let anybody in.
    #[error("this process admits no nodes: join the head")]
    NoAuthority,
}

/// Asks the head for the next certificate, over a connection that has proved who asks.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct RenewRequest {
    /// PKCS#10 request of a new key, DER, made out to who asks.
    pub csr: Vec<u8>,
}

/// The answer to a [`RenewRequest`].
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum RenewReply {
    /// The certificate before it stays good until its end.
    Granted {
        /// The next certificate, DER.
        certificate: Vec<u8>,
    },
    /// No certificate.
    Refused(RenewRefusal),
}

/// Why a certificate is not renewed.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum RenewRefusal {
    /// The certificate that the connection was made with is no longer good.
    #[error("the certificate was revoked: join with a new token from `playhouse token create`")]
    Revoked,
    /// The request is made out to somebody else.
    #[error("the certificate is of {certificate}, but the request is not: ask for the own name")]
    OtherName {
        /// Role and name of the certificate.
        certificate: String,
    },
    /// One was asked for on this connection a moment ago.
    #[error("asked again too soon: wait {seconds} s between two renewals")]
    TooSoon {
        /// How long to wait.
        seconds: u64,
    },
    /// The request is malformed.
    #[error("{0}")]
    BadRequest(String),
}

/// Everything a process needs to prove who it is. A parent writes it to its child's standard input.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct IdentityBundle {
    /// As in the certificate.
    pub role: Role,
    /// As in the certificate.
    pub name: String,
    /// The cluster's certificate authority, DER.
    pub authority: Vec<u8>,
    /// The process's certificate, DER.
    pub certificate: Vec<u8>,
    /// Its private key, PKCS#8 DER.
    pub key: Vec<u8>,
}

message!(JoinRequest, JoinRequest);
message!(JoinReply, JoinReply);
message!(IdentityBundle, Identity);
message!(RenewRequest, RenewRequest);
message!(RenewReply, RenewReply);

impl Request for JoinRequest {
    type Reply = JoinReply;
}

impl Request for RenewRequest {
    type Reply = RenewReply;
}

impl fmt::Debug for IdentityBundle {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, name, .. } = self;
        f.debug_struct("IdentityBundle").field("role", role).field("name", name).finish()
    }
}
