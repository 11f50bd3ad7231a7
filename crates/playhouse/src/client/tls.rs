//! TLS to a server, and the certificates that are accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::{ClientError, Target};
use crate::authority;

/// The variable that names a file of trusted certificates in PEM, as for OpenSSL and curl.
const TRUST_VARIABLE: &str = "SSL_CERT_FILE";

/// The files in which systems keep trusted certificates.
const TRUST_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The certificates that are accepted from a server.
#[derive(Clone, Copy)]
pub(crate) enum Trust<'a> {
    /// A certificate of the host in the URL, from an authority that this machine trusts.
    Machine,
    /// The certificate of a cluster's head, at any address: the file has the certificate of its
    /// authority.
    Head(&'a Path),
    /// Any certificate, for requests that neither send nor learn secrets.
    Anybody,
}

/// The TLS configuration for one server.
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
}

/// A verifier that accepts every certificate whose key the server has.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

// === impl Tls ===

impl Tls {
    /// Reads the trusted certificates.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or holds no certificate, or the host has no name that
    /// a certificate can have.
    pub(super) fn new(target: &Target, trust: Trust<'_>) -> Result<Self, ClientError> {
        let name = match trust {
            Trust::Head(_) => authority::head().host_name(),
            Trust::Machine | Trust::Anybody => target.host().to_owned(),
        };
        let name = ServerName::try_from(name).map_err(|_| ClientError::BadUrl {
            url: target.to_string(),
            why: "its host is no name that a certificate can have",
        })?;
        let config = match trust {
            Trust::Machine => trusting(None),
            Trust::Head(authority) => signed_by(authority).and_then(with_roots),
            Trust::Anybody => anybody(),
        };
        let config = config.map_err(ClientError::Trust)?;
        Ok(Self { connector: TlsConnector::from(config), name })
    }
}

/// Returns a configuration that trusts the authorities in a file of certificates in PEM; without one,
/// those that this machine trusts.
///
/// # Errors
/// Returns an error if the file cannot be read or holds no certificate.
pub(crate) fn trusting(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let (file, how) = match file {
        Some(file) => (file.to_owned(), String::new()),
        None => {
            let how = format!("; {TRUST_VARIABLE} names one");
            let found = env::var_os(TRUST_VARIABLE)
                .map(PathBuf::from)
                .or_else(|| TRUST_FILES.iter().map(PathBuf::from).find(|file| file.exists()));
            (found.ok_or_else(|| format!("this machine has no such file{how}"))?, how)
        }
    };
    let show = file.display();
    let pem = fs::read(&file).map_err(|why| format!("{show}: {why}{how}"))?;
    let mut roots = RootCertStore::empty();
    // Bundles of systems may hold certificates that cannot be used.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(format!("{show} holds no certificate{how}"));
    }
    with_roots(roots)
}

/// Returns only the authority of a folder made by `playhouse cluster init`.
fn signed_by(authority: &Path) -> Result<RootCertStore, String> {
    let failed = |why: &dyn std::fmt::Display| format!("--admin-ca {}: {why}", authority.display());
    let der = fs::read(authority).map_err(|why| failed(&why))?;
    let mut roots = RootCertStore::empty();
    let added = roots.add(CertificateDer::from(der));
    added.map_err(|_| failed(&"it is no authority.der of `playhouse cluster init`"))?;
    Ok(roots)
}

fn with_roots(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|why| why.to_string())?;
    Ok(Arc::new(tls.with_root_certificates(roots).with_no_client_auth()))
}

fn anybody() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|why| why.to_string())?;
    let verifier = Arc::new(AnyServer(provider));
    let tls = tls.dangerous().with_custom_certificate_verifier(verifier);
    Ok(Arc::new(tls.with_no_client_auth()))
}

// === impl AnyServer ===

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
