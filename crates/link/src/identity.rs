//! A cluster's certificate authority, and the identities it signs.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use playhouse_wire::{FrameDecoder, IdentityBundle, Message, PeerId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The default lifetime of certificates. They are renewed when about two thirds of it are over, so that a
/// head or a node may be away for eight days at any time, and a leaked key is useless after a month.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// The maximum lead of the signer's clock: a certificate is valid from this long before it was made.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// The certificate authority of one cluster. The holder of an `Authority` can make any peer.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    lifetime: Duration,
}

/// A peer's certificate, its key and the authority that signed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    peer: PeerId,
    bundle: IdentityBundle,
    term: Term,
}

/// The term in which a certificate is valid, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// The number of the certificate among those of its peer: the time of its issue, in nanoseconds
    /// since 1970. The number is the first half of the serial number; 0 for a certificate that is not ours.
    pub(crate) number: u64,
    /// The beginning, without the allowance for clocks that differ.
    pub(crate) from: SystemTime,
    pub(crate) until: SystemTime,
}

/// A request for a certificate: a key that its sender has proved to hold, and names.
pub(crate) struct CertificateRequest(CertificateSigningRequestParams);

/// An error of making or reading an identity or an authority; the text says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct IdentityError {
    what: &'static str,
    why: String,
}

// === impl Authority ===

impl Authority {
    /// Makes a new authority, which no peer trusts yet.
    ///
    /// # Errors
    /// Returns an error when the operating system gives no randomness.
    pub fn new() -> Result<Self, IdentityError> {
        let failed = failed("making a certificate authority");
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("playhouse cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).map_err(&failed)?.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Self { certificate, issuer, lifetime: CERTIFICATE_LIFETIME })
    }

    /// Restores an authority from [`Self::certificate`] and [`Self::key`].
    ///
    /// # Errors
    /// Returns an error when the bytes are no certificate and key.
    pub fn from_der(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let failed = failed("reading a certificate authority");
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key)).map_err(&failed)?;
        let certificate = CertificateDer::from(certificate).into_owned();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(&failed)?;
        Ok(Self { certificate, issuer, lifetime: CERTIFICATE_LIFETIME })
    }

    /// Returns the same authority, with `lifetime` for the certificates that it signs from now on. The
    /// authority's own certificate does not expire. Certificates have whole seconds.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Returns the lifetime of the certificates that the authority signs.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Returns the authority's own certificate, DER. Not secret.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Returns the authority's private key, PKCS#8 DER. Secret.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// Returns the SHA-256 digest of the certificate, by which joiners know the authority.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        certificate_hash(&self.certificate)
    }

    /// Makes an identity with a new key, for this process or a child of it.
    ///
    /// # Errors
    /// Returns an error when the operating system gives no randomness.
    pub fn identify(&self, peer: &PeerId) -> Result<Identity, IdentityError> {
        self.identify_at(peer, SystemTime::now())
    }

    /// Makes an identity by a clock that shows `at`.
    pub(crate) fn identify_at(
        &self,
        peer: &PeerId,
        at: SystemTime,
    ) -> Result<Identity, IdentityError> {
        let key = KeyPair::generate().map_err(failed("making a key"))?;
        let certificate = self.certify(peer, &key, nanos(at), at)?;
        Identity::new(peer, self.certificate.to_vec(), certificate, key.serialize_der())
    }

    /// Returns a certificate for the key of a request, made out to `peer` whatever the request says. Its
    /// [number](Term::number) is `number`.
    ///
    /// # Errors
    /// Returns an error when the certificate cannot be made.
    pub(crate) fn sign(
        &self,
        peer: &PeerId,
        request: &CertificateRequest,
        number: u64,
    ) -> Result<Vec<u8>, IdentityError> {
        self.certify(peer, &request.0.public_key, number, SystemTime::now())
    }

    fn certify(
        &self,
        peer: &PeerId,
        key: &impl PublicKeyData,
        number: u64,
        at: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let failed = failed("signing a certificate");
        let mut params = CertificateParams::new([peer.host_name()]).map_err(&failed)?;
        let at = date_time_ymd(1970, 1, 1) + at.duration_since(UNIX_EPOCH).unwrap_or_default();
        params.not_before = at - CLOCK_SKEW;
        params.not_after = at + self.lifetime;
        params.distinguished_name = common_name(&peer.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Certificates of the same moment have different serial numbers, too: the hash of the key makes
        // the rest.
        let mut serial = number.to_be_bytes().to_vec();
        serial.extend(&digest(&SHA256, &key.subject_public_key_info()).as_ref()[..8]);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(key, &self.issuer).map_err(&failed)?;
        Ok(certificate.der().to_vec())
    }
}

impl fmt::Debug for Authority {
    /// Formats the authority without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

// === impl Identity ===

impl Identity {
    /// Returns an identity of a new certificate and its key.
    ///
    /// # Errors
    /// Returns an error when the certificate is not of the peer.
    pub(crate) fn new(
        peer: &PeerId,
        authority: Vec<u8>,
        certificate: Vec<u8>,
        key: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        let (role, name) = (peer.role(), peer.name().to_owned());
        let bundle = IdentityBundle { role, name, authority, certificate, key };
        Self::of(peer.clone(), bundle)
    }

    fn of(peer: PeerId, bundle: IdentityBundle) -> Result<Self, IdentityError> {
        let wrong = failed("reading an identity");
        let certificate = CertificateDer::from(bundle.certificate.as_slice());
        match (certified_peer(&certificate), Term::of(&certificate)) {
            (Some(certified), Some(term)) if certified == peer => Ok(Self { peer, bundle, term }),
            (Some(other), Some(_)) => Err(wrong(format!("{other}'s certificate for {peer}"))),
            _ => Err(wrong(format!("the certificate of {peer} names no peer"))),
        }
    }

    /// Returns the peer that the identity is made out to.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Returns all of the identity, the private key included, for a child's standard input or a private
    /// file.
    ///
    /// # Errors
    /// Returns an error when the certificates are longer than any that [`Authority`] makes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IdentityError> {
        let mut bytes = Vec::new();
        self.bundle.encode_into(&mut bytes).map_err(failed("writing an identity"))?;
        Ok(bytes)
    }

    /// Restores an identity from [`Self::to_bytes`].
    ///
    /// # Errors
    /// Returns an error when the bytes are malformed, or the certificate is not of the named peer.
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
        Self::of(peer, bundle)
    }

    /// Returns the end of the identity's certificate.
    #[must_use]
    pub fn good_until(&self) -> SystemTime {
        self.term.until
    }

    pub(crate) fn term(&self) -> Term {
        self.term
    }

    pub(crate) fn authority(&self) -> CertificateDer<'static> {
        self.bundle.authority.clone().into()
    }

    /// Returns the certificate, which the authority has signed. Not secret.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.bundle.certificate.clone().into()
    }

    /// Returns the private key. Secret.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.bundle.key.clone()).into()
    }
}

impl fmt::Debug for Identity {
    /// Formats the identity without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.peer).finish()
    }
}

/// Returns the end of a certificate, DER; `None` if the bytes are no certificate.
#[must_use]
pub fn certificate_end(der: &[u8]) -> Option<SystemTime> {
    Term::of(&CertificateDer::from(der)).map(|term| term.until)
}

// === impl Term ===

impl Term {
    /// Returns the term of a certificate, if the bytes are one.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let validity = certificate.validity();
        let moment = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
        Some(Self {
            number: number(&certificate.serial.to_bytes_be()),
            from: moment(validity.not_before.timestamp()) + CLOCK_SKEW,
            until: moment(validity.not_after.timestamp()),
        })
    }
}

// === impl CertificateRequest ===

impl CertificateRequest {
    /// Reads a PKCS#10 request, DER.
    ///
    /// # Errors
    /// Returns an error when the request is malformed or was not signed with its own key.
    pub(crate) fn read(csr: &[u8]) -> Result<Self, IdentityError> {
        let read = CertificateSigningRequestParams::from_der(&csr.into());
        read.map(Self).map_err(failed("reading a certificate request"))
    }

    /// Returns whether the request is made out to `peer` and to no other name.
    pub(crate) fn names(&self, peer: &PeerId) -> bool {
        let host = peer.host_name();
        let own = |name: &SanType| matches!(name, SanType::DnsName(name) if name.as_str() == host);
        let names = &self.0.params.subject_alt_names;
        !names.is_empty() && names.iter().all(own)
    }
}

// === impl IdentityError ===

pub(crate) fn failed<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> IdentityError {
    move |why| IdentityError { what, why: why.to_string() }
}

/// Returns the peer that a certificate is made out to, if the certificate is one of ours.
pub(crate) fn certified_peer(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().find_map(PeerId::from_host_name)
}

/// Returns the number of a certificate that is issued now.
pub(crate) fn now() -> u64 {
    nanos(SystemTime::now())
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the first half of a serial number of ours; 0 for another serial number.
fn number(serial: &[u8]) -> u64 {
    // The leading zeros of a number are not encoded.
    let mut padded = [0; 16];
    let Some(front) = padded.len().checked_sub(serial.len()) else { return 0 };
    padded[front..].copy_from_slice(serial);
    let (number, _) = padded.split_first_chunk().expect("16 bytes");
    u64::from_be_bytes(*number)
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
