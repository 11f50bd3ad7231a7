//! The join of a node from another machine, with a token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use playhouse_wire::{
    BadName, DecodeError, JoinRefusal, JoinReply, JoinRequest, PeerId, PrefaceError, Role,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::time::{Duration, timeout};

use crate::close::{CloseCode, PeerLost};
use crate::config::LinkConfig;
use crate::connection::{Connection, Transport};
use crate::enrollment::Enrollment;
use crate::greeting::{self, NoGreeting};
use crate::identity::{Identity, IdentityError, certificate_hash, failed};
use crate::tls;
use crate::token::JoinToken;
use crate::turn_reason::TurnReason;

/// The reason why a node did not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The node cannot have this name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// No key or socket could be made here.
    #[error(transparent)]
    Local(#[from] IdentityError),
    /// The head does not answer, or not in time.
    #[error("no answer from {addr} in {after:?}: is the head running and is UDP let through?")]
    NoAnswer {
        /// The given address.
        addr: SocketAddr,
        /// The maximum wait for an answer.
        after: Duration,
    },
    /// The process at the address is not the head of the token.
    #[error("{addr} is not the head that made this token: {why}")]
    OtherAuthority {
        /// The given address.
        addr: SocketAddr,
        /// The error of TLS.
        why: String,
    },
    /// The head is of another release.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// The head's answer cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The head refuses the join.
    #[error("the head refused: {0}")]
    Refused(#[from] JoinRefusal),
    /// The head's certificate is of another peer, or not of the token's authority.
    #[error("the head sent a certificate that is not ours")]
    OtherCertificate,
    /// The connection broke.
    #[error(transparent)]
    Lost(#[from] PeerLost),
}

/// Turns a token into an identity of a node called `name`. The key is made in this process and stays
/// here. `head` is the name of the head. Needs a tokio runtime.
///
/// # Errors
/// Returns a [`JoinError`]. The token is used up if the head granted it, whatever happened after that.
pub async fn join(
    addr: SocketAddr,
    token: &JoinToken,
    head: &PeerId,
    name: &str,
    config: LinkConfig,
) -> Result<Identity, JoinError> {
    let peer = PeerId::new(Role::Node, name)?;
    let after = config.handshake;
    let joined = timeout(after, ask(addr, token, head, &peer, &config)).await;
    joined.unwrap_or(Err(JoinError::NoAnswer { addr, after }))
}

async fn ask(
    addr: SocketAddr,
    token: &JoinToken,
    head: &PeerId,
    peer: &PeerId,
    config: &LinkConfig,
) -> Result<Identity, JoinError> {
    let lost = |lost| match lost {
        PeerLost::TimedOut => JoinError::NoAnswer { addr, after: config.idle },
        PeerLost::Certificate(why) => JoinError::OtherAuthority { addr, why },
        lost => JoinError::Lost(lost),
    };
    let any: IpAddr = if addr.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let endpoint = quinn::Endpoint::client((any, 0).into()).map_err(failed("opening a socket"))?;
    let client = tls::joiner(token.authority, config)?;
    let connecting = endpoint.connect_with(client, addr, &head.host_name());
    let connected = connecting.map_err(failed("dialling the head"))?.await;
    let quic = connected.map_err(|error| lost(crate::quic::peer_lost(&error)))?;

    let key = KeyPair::generate().map_err(failed("making a key"))?;
    let csr = CertificateParams::default().serialize_request(&key);
    let csr = csr.map_err(failed("making a certificate request"))?.der().to_vec();
    let session = session(&quic).ok_or(JoinError::OtherCertificate)?;
    let proof = token.proof(&session, &csr);
    let request = JoinRequest { token: token.id, proof, name: peer.name().to_owned(), csr };
    let authority = chain(&quic).into_iter().find(|one| certificate_hash(one) == token.authority);
    let authority = authority.ok_or(JoinError::OtherCertificate)?;
    let connection = Connection::new(Transport::Quic(quic));
    let reply = greeting::ask(&connection, &request).await;
    connection.close(CloseCode::Bye, PeerLost::Local, "done");
    let certificate = match reply {
        Ok(JoinReply::Granted { certificate }) => certificate,
        Ok(JoinReply::Refused(refusal)) => return Err(refusal.into()),
        Err(NoGreeting::Preface(error)) => return Err(error.into()),
        Err(NoGreeting::Unreadable(error)) => return Err(error.into()),
        Err(NoGreeting::Lost(gone)) => return Err(lost(gone)),
        Err(_) => return Err(JoinError::NoAnswer { addr, after: config.idle }),
    };
    let identity = Identity::new(peer, authority.to_vec(), certificate, key.serialize_der());
    identity.map_err(|_| JoinError::OtherCertificate)
}

/// Reads a joiner's request and answers it, on the side of the head.
pub(crate) async fn serve(
    quic: quinn::Connection,
    enrollment: Option<&Arc<Enrollment>>,
    taken: impl FnOnce(&PeerId) -> bool,
    config: &LinkConfig,
) -> Result<(), TurnReason> {
    let session = session(&quic).ok_or(TurnReason::Silent)?;
    let connection = Connection::new(Transport::Quic(quic));
    let served = timeout(config.handshake, async {
        let (request, send) = greeting::hear::<JoinRequest>(&connection).await?;
        let admitted = enrollment.ok_or(JoinRefusal::NoAuthority);
        match admitted.and_then(|enrollment| enrollment.admit(&request, &session, taken)) {
            Ok((peer, certificate)) => {
                greeting::say(send, &JoinReply::Granted { certificate }).await?;
                tracing::info!(%peer, "node joined");
                Ok(())
            }
            Err(refusal) => {
                greeting::say(send, &JoinReply::Refused(refusal.clone())).await?;
                Err(TurnReason::NotJoined(refusal))
            }
        }
    });
    let served = served.await.unwrap_or(Err(TurnReason::Silent));
    // The joiner closes when it has read the answer.
    drop(timeout(config.idle, connection.closed()).await);
    connection.close(CloseCode::Bye, PeerLost::Local, "done");
    served
}

/// Returns 32 bytes that only the two ends of this TLS session know (RFC 8446, 7.5).
fn session(quic: &quinn::Connection) -> Option<[u8; 32]> {
    let mut session = [0; 32];
    quic.export_keying_material(&mut session, tls::JOIN_EXPORTER, &[]).ok()?;
    Some(session)
}

/// Returns the certificates that the other side has shown.
fn chain(quic: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let chain = quic.peer_identity().and_then(|chain| chain.downcast().ok());
    chain.map(|chain: Box<Vec<CertificateDer<'static>>>| *chain).unwrap_or_default()
}
