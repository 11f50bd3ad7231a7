//! Who may speak: a cluster's certificate authority, and the identities it signs.

use std::fmt;

use playhouse_wire::{FrameDecoder, IdentityBundle, Message, PeerId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};

/// The certificate authority of one cluster. Whoever has it can make any peer.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A peer's certificate, its key and the authority that signed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    peer: PeerId,
    bundle: IdentityBundle,
}

/// An identity or authority that cannot be made or read; the text says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct IdentityError {
    what: &'static str,
    why: String,
}

// === impl Authority ===

impl Authority {
    /// A new authority, which nobody trusts yet.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new() -> Result<Self, IdentityError> {
        let failed = failed("making a certificate authority");
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("playhouse cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(&failed)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// An authority as it was kept: what [`Self::certificate`] and [`Self::key`] gave.
    ///
    /// # Errors
    /// When the bytes are no certificate and key.
    pub fn from_der(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let failed = failed("reading a certificate authority");
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key)).map_err(&failed)?;
        let certificate = CertificateDer::from(certificate).into_owned();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(&failed)?;
        Ok(Self { certificate, issuer })
    }

    /// The authority's own certificate, DER. Not secret.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The authority's private key, PKCS#8 DER. Secret.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// SHA-256 of the certificate, by which joiners know the authority.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        certificate_hash(&self.certificate)
    }

    /// An identity with a new key: for this process or a child of it.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn identify(&self, peer: &PeerId) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate().map_err(failed("making a key"))?;
        let certificate = self.certify(peer, &key)?;
        Ok(Identity::new(peer, self.certificate.to_vec(), certificate, key.serialize_der()))
    }

    /// A certificate for whoever holds the key of a PKCS#10 request, made out to `peer` and not to
    /// what the request says.
    ///
    /// # Errors
    /// When the request is malformed or was not signed with its own key.
    pub fn sign(&self, peer: &PeerId, csr: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateSigningRequestDer::from(csr);
        let request = CertificateSigningRequestParams::from_der(&request);
        let request = request.map_err(failed("reading a certificate request"))?;
        self.certify(peer, &request.public_key)
    }

    fn certify(&self, peer: &PeerId, key: &impl PublicKeyData) -> Result<Vec<u8>, IdentityError> {
        let failed = failed("signing a certificate");
        let mut params = CertificateParams::new([peer.host_name()]).map_err(&failed)?;
        params.distinguished_name = common_name(&peer.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(&failed)?;
        Ok(certificate.der().to_vec())
    }
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

// === impl Identity ===

impl Identity {
    pub(crate) fn new(
        peer: &PeerId,
        authority: Vec<u8>,
        certificate: Vec<u8>,
        key: Vec<u8>,
    ) -> Self {
        let (role, name) = (peer.role(), peer.name().to_owned());
        let bundle = IdentityBundle { role, name, authority, certificate, key };
        Self { peer: peer.clone(), bundle }
    }

    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Everything, the private key included: for a child's standard input or a private file.
    ///
    /// # Errors
    /// When the certificates are longer than any that [`Authority`] makes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IdentityError> {
        let mut bytes = Vec::new();
        self.bundle.encode_into(&mut bytes).map_err(failed("writing an identity"))?;
        Ok(bytes)
    }

    /// What [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// When the bytes are something else, or the certificate is not of the named peer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        const READING: &str = "reading an identity";
        let mut decoder = FrameDecoder::default();
        let (_, frame) = decoder.feed(bytes).map_err(failed(READING))?;
        let Some(frame) = frame else {
            decoder.end().map_err(failed(READING))?;
            return Err(failed(READING)("there are no bytes"));
        };
        let bundle = IdentityBundle::decode(&frame).map_err(failed(READING))?;
        let peer = PeerId::new(bundle.role, &bundle.name).map_err(failed(READING))?;
        match certified_peer(&CertificateDer::from(bundle.certificate.as_slice())) {
            Some(certified) if certified == peer => Ok(Self { peer, bundle }),
            Some(other) => Err(failed(READING)(format!("{other}'s certificate for {peer}"))),
            None => Err(failed(READING)(format!("the certificate of {peer} names no peer"))),
        }
    }

    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        self.bundle.authority.clone().into()
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.bundle.certificate.clone().into()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.bundle.key.clone()).into()
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.peer).finish()
    }
}

// === impl IdentityError ===

pub(crate) fn failed<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> IdentityError {
    move |why| IdentityError { what, why: why.to_string() }
}

/// The peer a certificate is made out to, if it is one of ours.
pub(crate) fn certified_peer(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().find_map(PeerId::from_host_name)
}

pub(crate) fn certificate_hash(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, certificate).as_ref());
    hash
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
