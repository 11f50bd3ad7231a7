//! How a process gets its identity: from another machine with a token, from its parent, or in exchange
//! for its current one.

use std::fmt;

use crate::message::message;
use crate::{Request, Role};

/// A request for a certificate. The sender has checked the head's certificate authority against the
/// token.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct JoinRequest {
    /// The id of the token; not secret.
    pub token: [u8; 8],
    /// The proof: an HMAC-SHA256 under the token's secret, of the TLS session's exporter and the request
    /// to be signed. The proof is useless in any other session, and the secret is never sent.
    pub proof: [u8; 32],
    /// The requested name of the node.
    pub name: String,
    /// The PKCS#10 request, DER. Only its public key is used.
    pub csr: Vec<u8>,
}

/// The answer to a [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum JoinReply {
    /// The node is admitted, and the token is used up.
    Granted {
        /// The node's certificate, DER.
        certificate: Vec<u8>,
    },
    /// The head gives no certificate.
    Refused(JoinRefusal),
}

/// The reason why no certificate is given.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum JoinRefusal {
    /// The head knows no such token: it is mistyped, or older than the head's last start.
    #[error("the head knows no such token: make one with `playhouse token create`")]
    UnknownToken,
    /// The token has expired.
    #[error("the token has expired: make a new one with `playhouse token create`")]
    Expired,
    /// The token was used: a token lets one node in.
    #[error("the token has been used: make one per node with `playhouse token create`")]
    Used,
    /// The proof was not made with the token's secret.
    #[error("the token's secret is wrong: copy the token again, whole")]
    WrongSecret,
    /// The name belongs to a connected node, or to one that is expected back.
    #[error(
        "the name {0} is taken by a node that is connected or that ranks wait for: give another \
         --name"
    )]
    NameTaken(String),
    /// The name or the certificate request is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// The process cannot admit nodes, because it has no authority.
    #[error("this process admits no nodes: join the head")]
    NoAuthority,
}

/// A request for the next certificate, over a connection that authenticates the peer.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct RenewRequest {
    /// The PKCS#10 request of a new key, DER, made out to the peer.
    pub csr: Vec<u8>,
}

/// The answer to a [`RenewRequest`].
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum RenewReply {
    /// The certificate was renewed. The previous one stays valid until its end.
    Granted {
        /// The next certificate, DER.
        certificate: Vec<u8>,
    },
    /// The head gives no certificate.
    Refused(RenewRefusal),
}

/// The reason why a certificate is not renewed.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum RenewRefusal {
    /// The certificate that the connection was made with was revoked.
    #[error("the certificate was revoked: join with a new token from `playhouse token create`")]
    Revoked,
    /// The request is made out to another peer.
    #[error("the certificate is of {certificate}, but the request is not: ask for the own name")]
    OtherName {
        /// The role and the name of the certificate.
        certificate: String,
    },
    /// The last request on this connection was a moment ago.
    #[error("asked again too soon: wait {seconds} s between two renewals")]
    TooSoon {
        /// The time to wait, in seconds.
        seconds: u64,
    },
    /// The request is malformed.
    #[error("{0}")]
    BadRequest(String),
}

/// The identity of a process, with its private key. A parent writes it to its child's standard input.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct IdentityBundle {
    /// The role in the certificate.
    pub role: Role,
    /// The name in the certificate.
    pub name: String,
    /// The cluster's certificate authority, DER.
    pub authority: Vec<u8>,
    /// The process's certificate, DER.
    pub certificate: Vec<u8>,
    /// The process's private key, PKCS#8 DER.
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
    /// Formats the bundle without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, name, .. } = self;
        f.debug_struct("IdentityBundle").field("role", role).field("name", name).finish()
    }
}
