//! The certificates for clients of the HTTP listeners: from files, or beyond loopback one of the
//! cluster's authority for operators.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use playhouse_link::{Authority, certificate_end};
use playhouse_wire::PeerId;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;

use super::ServeArgs;
use crate::error::CliError;

/// A certificate with its key, and the files it came from. The next client gets a renewed one.
#[derive(Debug)]
pub(super) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    shown: RwLock<Arc<CertifiedKey>>,
}

/// Certificates of a cluster's authority, with a new key for each client: none of them expires, and none
/// is stored.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) authority: Authority,
    /// The peer that they are made out to.
    pub(super) peer: PeerId,
}

// === impl Certificate ===

impl Certificate {
    /// Reads the files, if there are any.
    ///
    /// # Errors
    /// Returns the problem of the files.
    pub(super) fn of(args: &ServeArgs) -> Result<Option<Arc<Self>>, CliError> {
        let Some((certificate, key)) = args.ssl_certfile.clone().zip(args.ssl_keyfile.clone())
        else {
            return Ok(None);
        };
        let shown = RwLock::new(read(&certificate, &key)?);
        Ok(Some(Arc::new(Self { certificate, key, shown })))
    }

    /// Returns the end of the current certificate.
    pub(super) fn end(&self) -> Option<SystemTime> {
        let shown = self.shown.read();
        shown.cert.first().and_then(|certificate| certificate_end(certificate))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// Returns the problem of the files; the old certificate stays in use then.
    pub(super) fn renew(&self) -> Result<(), CliError> {
        let read = read(&self.certificate, &self.key)?;
        *self.shown.write() = read;
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read()))
    }
}

// === impl Signed ===

impl ResolvesServerCert for Signed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.authority.identify(&self.peer).ok()?;
        let chain = vec![shown.certificate()];
        CertifiedKey::from_der(chain, shown.key(), &ring::default_provider()).ok().map(Arc::new)
    }
}

/// Returns a TLS 1.3 configuration with the certificate that `shown` provides.
///
/// # Errors
/// Returns an error when the cryptography cannot be set up.
pub(super) fn server(
    shown: Arc<impl ResolvesServerCert + 'static>,
) -> Result<Arc<ServerConfig>, CliError> {
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|why| CliError::failure(format!("cannot set TLS up: {why}")))?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    Ok(Arc::new(tls))
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CliError> {
    let failed = |flag: &str, file: &Path, why: &dyn Display| {
        CliError::usage(format!("{flag} {}: {why}", file.display()))
            .hint("both files are PEM: a chain of certificates, and the key of the first")
    };
    let certificate_failed = |why: &dyn Display| failed("--ssl-certfile", certificate, why);
    let pem = fs::read(certificate).map_err(|why| certificate_failed(&why))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|why| certificate_failed(&why))?;
    if chain.is_empty() {
        return Err(certificate_failed(&"it holds no certificate"));
    }
    let key_failed = |why: &dyn Display| failed("--ssl-keyfile", key, why);
    let pem = fs::read(key).map_err(|why| key_failed(&why))?;
    // The contents of the file are not repeated.
    let der = PrivateKeyDer::from_pem_slice(&pem);
    let der = der.map_err(|_| key_failed(&"it holds no private key"))?;
    let pair = CertifiedKey::from_der(chain, der, &ring::default_provider());
    pair.map(Arc::new).map_err(|why| key_failed(&why))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use playhouse_wire::Role;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::authority::head;
    use crate::client::{Client, ClientError, Target, Trust};

    /// Returns whether an operator who knows `trusted` accepts a server with a certificate of
    /// `authority`.
    async fn believes(trusted: &Authority, authority: &Authority, peer: PeerId) -> bool {
        let authority = Authority::from_der(authority.certificate(), authority.key());
        let shown = Signed { authority: authority.expect("an authority"), peer };
        let tls = TlsAcceptor::from(server(Arc::new(shown)).expect("TLS"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = format!("https://{}", listener.local_addr().expect("an address"));
        let answer = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            let mut stream = tls.accept(stream).await?;
            stream.read_u8().await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        });
        let name = format!("playhouse-authority-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, trusted.certificate()).expect("written");
        let target = Target::parse(&target).expect("a URL");
        let second = Duration::from_secs(5);
        let client = Client::trusting(Trust::Head(&file), target, None, second).await;
        let response = client.expect("a client").get("/").await;
        fs::remove_file(&file).expect("written above");
        let served = answer.await.expect("no panic").is_ok();
        let distrusted = response.as_ref().err().is_some_and(ClientError::is_distrust);
        assert_eq!((response.is_ok(), !distrusted), (served, served), "{:?}", response.err());
        served
    }

    /// Nodes have certificates of the same authority, and must not get the token of operators.
    #[tokio::test]
    async fn operators_believe_the_head_of_their_cluster_and_nobody_else_in_it() {
        let authority = Authority::new().expect("randomness");
        let other = Authority::new().expect("randomness");
        assert!(believes(&authority, &authority, head()).await);
        let node = PeerId::new(Role::Node, "a").expect("a name");
        assert!(!believes(&authority, &authority, node).await);
        assert!(!believes(&authority, &other, head()).await);
    }
}
