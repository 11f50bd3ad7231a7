//! TLS 1.3 with a certificate on both sides, from the cluster's authority only.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::config::LinkConfig;
use crate::identity::{Identity, IdentityError, certificate_hash, failed};
use crate::quic;

/// The ALPN protocol between peers. It lacks the protocol version, which the hello compares with a better
/// error.
pub(crate) const PEER_PROTOCOL: &[u8] = b"playhouse";

/// The ALPN protocol between a node without a certificate and the head.
pub(crate) const JOIN_PROTOCOL: &[u8] = b"playhouse-join";

/// The label under which both sides of a join derive the same 32 bytes from their session.
pub(crate) const JOIN_EXPORTER: &[u8] = b"EXPORTER-playhouse-join";

/// A verifier that accepts the certificate of one authority, known by its hash (**LK-7**).
#[derive(Debug)]
struct PinnedAuthority {
    hash: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// Returns the configuration that accepts peers with a certificate of our authority, and joiners without
/// one: the ALPN protocol of a connection tells them apart, and [`crate::arrival`] turns away peers
/// without a certificate.
pub(crate) fn server(
    identity: &Identity,
    config: &LinkConfig,
) -> Result<quinn::ServerConfig, IdentityError> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider());
    let clients = clients.allow_unauthenticated().build().map_err(failed(BUILDING))?;
    // The chain includes the authority for joiners, which know only its hash.
    let chain = vec![identity.certificate(), identity.authority()];
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed(BUILDING))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, identity.key())
        .map_err(failed(BUILDING))?;
    tls.alpn_protocols = vec![PEER_PROTOCOL.to_vec(), JOIN_PROTOCOL.to_vec()];
    // Every connection shows its certificate again, so there is no session to resume and no 0-RTT.
    tls.send_tls13_tickets = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(failed(BUILDING))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(quic::transport(config));
    Ok(server)
}

/// Returns the configuration that shows our certificate, and accepts those of our authority.
pub(crate) fn client(
    identity: &Identity,
    config: &LinkConfig,
) -> Result<quinn::ClientConfig, IdentityError> {
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed(BUILDING))?
        .with_root_certificates(roots(identity)?)
        .with_client_auth_cert(vec![identity.certificate()], identity.key())
        .map_err(failed(BUILDING))?;
    finish(tls, PEER_PROTOCOL, config)
}

/// Returns the configuration that shows no certificate, and accepts the head of the authority with this
/// hash.
pub(crate) fn joiner(
    authority: [u8; 32],
    config: &LinkConfig,
) -> Result<quinn::ClientConfig, IdentityError> {
    let pinned = PinnedAuthority { hash: authority, provider: provider() };
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed(BUILDING))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    finish(tls, JOIN_PROTOCOL, config)
}

/// Returns the configuration that shows no certificate, but speaks the protocol of peers.
#[cfg(test)]
pub(crate) fn bare(
    identity: &Identity,
    config: &LinkConfig,
) -> Result<quinn::ClientConfig, IdentityError> {
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed(BUILDING))?
        .with_root_certificates(roots(identity)?)
        .with_no_client_auth();
    finish(tls, PEER_PROTOCOL, config)
}

const BUILDING: &str = "setting up TLS";

fn finish(
    mut tls: ClientConfig,
    protocol: &[u8],
    config: &LinkConfig,
) -> Result<quinn::ClientConfig, IdentityError> {
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls.resumption = Resumption::disabled();
    let tls = QuicClientConfig::try_from(tls).map_err(failed(BUILDING))?;
    let mut client = quinn::ClientConfig::new(Arc::new(tls));
    client.transport_config(quic::transport(config));
    Ok(client)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority()).map_err(failed("reading the authority's certificate"))?;
    Ok(Arc::new(roots))
}

// === impl PinnedAuthority ===

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |certificate: &&CertificateDer<'_>| certificate_hash(certificate) == self.hash;
        let authority = intermediates.iter().find(pinned);
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().map_err(|_| CertificateError::BadEncoding)?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC is TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
