//! Admission of nodes and renewal of certificates, by an authority and the tokens that it has issued.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use playhouse_wire::{JoinRefusal, JoinRequest, PeerId, RenewRefusal, Role};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, timeout_at};

use crate::identity::{Authority, CertificateRequest, IdentityError, Term, failed, now};
use crate::revocation::Revocations;
use crate::token::JoinToken;

/// The maximum number of known tokens. For one more, a used token is forgotten, or the one that expires
/// next.
const TOKENS_MAX: usize = 1024;

/// The number of wrong secrets after which a token is void: typing errors are never that many.
const WRONG_MAX: u32 = 5;

/// An authority that signs certificates for nodes that bring a token (**LK-7**), and the next
/// certificates of peers that have one (**LK-12**). Tokens live in memory: a restart voids the tokens
/// that were issued before it.
#[derive(Debug)]
pub struct Enrollment {
    authority: Authority,
    reserved: OnceLock<Reserved>,
    told: OnceLock<Told>,
    issued: Mutex<HashMap<[u8; 8], Issued>>,
    /// Notifies that a token may have been spent.
    changed: watch::Sender<()>,
    /// The revoked certificates. Locked after `issued`.
    revoked: Mutex<Revoked>,
    /// The end of the last certificate of each node that is known to have one.
    ends: Mutex<HashMap<String, SystemTime>>,
}

/// A function that writes a list of revoked certificates down, so that a restart knows the list.
pub type KeepRevocations = Box<dyn FnMut(&Revocations) -> io::Result<()> + Send>;

/// The outcome of a peer's request for its next certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The peer whose certificate it is.
    pub peer: PeerId,
    /// The end of the next certificate, or the reason why there is none.
    pub outcome: Result<SystemTime, RenewRefusal>,
}

/// A function that is called for every renewal, and may block.
pub type TellRenewal = Arc<dyn Fn(&Renewal) + Send + Sync>;

struct Revoked {
    list: Revocations,
    keep: KeepRevocations,
}

/// A function that says which names are reserved for their nodes.
struct Reserved(Box<dyn Fn(&str) -> bool + Send + Sync>);

struct Told(TellRenewal);

#[derive(Debug)]
struct Issued {
    token: JoinToken,
    until: Instant,
    used: bool,
    wrong: u32,
}

// === impl Enrollment ===

impl Enrollment {
    /// Returns an enrollment that has issued no token, with `list` as its revoked certificates. `keep` is
    /// called with the list when it grows.
    #[must_use]
    pub fn new(authority: Authority, list: Revocations, keep: KeepRevocations) -> Self {
        let revoked = Mutex::new(Revoked { list, keep });
        let (reserved, told, issued, changed) = Default::default();
        Self { authority, reserved, told, issued, changed, revoked, ends: Mutex::default() }
    }

    /// Revokes every certificate that a node of this name has got so far (**LK-10**). The caller must
    /// close an existing connection.
    ///
    /// # Errors
    /// Returns the error of keeping the list; then nothing is revoked.
    pub fn revoke(&self, name: &str) -> io::Result<()> {
        // No certificate is signed meanwhile.
        let _issued = self.issued.lock();
        let mut revoked = self.revoked();
        let mut list = revoked.list.clone();
        list.revoke(name, now());
        (revoked.keep)(&list)?;
        revoked.list = list;
        Ok(())
    }

    /// Returns whether the certificate of `peer` with this number was revoked.
    pub(crate) fn has_revoked(&self, peer: &PeerId, number: u64) -> bool {
        peer.role() == Role::Node && self.revoked().list.has(peer.name(), number)
    }

    /// Records that a peer has a certificate that is valid until `until`.
    pub(crate) fn has_certificate(&self, peer: &PeerId, until: SystemTime) {
        if peer.role() == Role::Node {
            let mut ends = self.ends.lock();
            let end = ends.entry(peer.name().to_owned()).or_insert(until);
            *end = until.max(*end);
        }
    }

    /// Returns the end of the last certificate of a node, if the node has been seen since this enrollment
    /// was made.
    #[must_use]
    pub fn certificate_end(&self, node: &str) -> Option<SystemTime> {
        self.ends.lock().get(node).copied()
    }

    /// Returns whether the node cannot come back with a certificate, because its last one has expired.
    fn has_ended(&self, name: &str) -> bool {
        self.certificate_end(name).is_some_and(|until| until < SystemTime::now())
    }

    /// Returns the next certificate of a peer, DER, and its end. The peer is connected by the certificate
    /// with this `number`, which may have expired since.
    pub(crate) fn renew(
        &self,
        peer: &PeerId,
        number: u64,
        csr: &[u8],
    ) -> Result<(Vec<u8>, SystemTime), RenewRefusal> {
        let bad = |error: IdentityError| RenewRefusal::BadRequest(error.to_string());
        let request = CertificateRequest::read(csr).map_err(bad)?;
        if !request.names(peer) {
            return Err(RenewRefusal::OtherName { certificate: peer.to_string() });
        }
        // No certificate is revoked meanwhile.
        let _issued = self.issued.lock();
        if self.has_revoked(peer, number) {
            return Err(RenewRefusal::Revoked);
        }
        let certificate = self.authority.sign(peer, &request, self.next_number(peer));
        let certificate = certificate.map_err(bad)?;
        let term = Term::of(&CertificateDer::from(certificate.as_slice()));
        let until = term.expect("it was just made").until;
        self.has_certificate(peer, until);
        Ok((certificate, until))
    }

    /// Returns a number above the revoked ones, even if the clock was set back.
    fn next_number(&self, peer: &PeerId) -> u64 {
        now().max(self.revoked().list.last(peer.name()).saturating_add(1))
    }

    /// Calls `told` for every renewal from now on, refused ones as well. A second call has no effect.
    pub fn tell_renewals(&self, told: TellRenewal) {
        let _ = self.told.set(Told(told));
    }

    pub(crate) async fn tell(&self, renewal: Renewal) {
        let Some(Told(told)) = self.told.get() else { return };
        let told = Arc::clone(told);
        if let Err(why) = spawn_blocking(move || told(&renewal)).await {
            tracing::error!(%why, "a renewal was not told");
        }
    }

    fn revoked(&self) -> MutexGuard<'_, Revoked> {
        self.revoked.lock()
    }

    /// Refuses new enrollments under names for which `reserved` returns true, even while that node is
    /// disconnected: the node comes back with its certificate, for as long as the certificate is valid. A
    /// second call has no effect.
    pub fn reserve(&self, reserved: impl Fn(&str) -> bool + Send + Sync + 'static) {
        let _ = self.reserved.set(Reserved(Box::new(reserved)));
    }

    /// Returns the authority of the enrollment.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Issues a new token, which admits one node within `ttl`.
    ///
    /// # Errors
    /// Returns an error when the operating system gives no randomness.
    pub fn issue(&self, ttl: Duration) -> Result<JoinToken, IdentityError> {
        let (mut id, mut secret) = ([0; 8], [0; 16]);
        let random = SystemRandom::new();
        let filled = random.fill(&mut id).and_then(|()| random.fill(&mut secret));
        filled.map_err(|_| failed("making a token")("the system gives no randomness"))?;
        let token = JoinToken { id, secret, authority: self.authority.hash() };
        let until = Instant::now() + ttl;
        let mut issued = self.issued.lock();
        if issued.len() >= TOKENS_MAX {
            // Used tokens go before tokens that may still be used.
            let least = issued.iter().min_by_key(|(_, issued)| (!issued.used, issued.until));
            let least = least.map(|(id, _)| *id);
            least.and_then(|id| issued.remove(&id));
        }
        issued.insert(id, Issued { token: token.clone(), until, used: false, wrong: 0 });
        self.changed.send_replace(());
        Ok(token)
    }

    /// Completes when the token admits no node any more: it was used, has expired, or is void.
    pub async fn until_spent(&self, token: &JoinToken) {
        let mut changed = self.changed.subscribe();
        while let Some(until) = self.good_until(token) {
            // The next iteration sees whether the token changed or expired; the sender is ours.
            drop(timeout_at(until, changed.changed()).await);
        }
    }

    /// Returns when a token expires, if it is valid now.
    fn good_until(&self, token: &JoinToken) -> Option<Instant> {
        let issued = self.issued.lock();
        let Issued { until, used, wrong, .. } = issued.get(&token.id)?;
        let good = !used && *wrong < WRONG_MAX && Instant::now() < *until;
        good.then_some(*until)
    }

    /// Returns a certificate, DER, for a request that proves its token. `taken` says whether a peer is
    /// connected.
    pub(crate) fn admit(
        &self,
        request: &JoinRequest,
        session: &[u8; 32],
        taken: impl FnOnce(&PeerId) -> bool,
    ) -> Result<(PeerId, Vec<u8>), JoinRefusal> {
        let mut issued = self.issued.lock();
        let issued = issued.get_mut(&request.token).ok_or(JoinRefusal::UnknownToken)?;
        // Only the owner of a token learns its state, so the proof comes first.
        if issued.wrong >= WRONG_MAX {
            return Err(JoinRefusal::Used);
        }
        if !issued.token.proves(&request.proof, session, &request.csr) {
            issued.wrong += 1;
            self.changed.send_replace(());
            return Err(JoinRefusal::WrongSecret);
        }
        if issued.used {
            return Err(JoinRefusal::Used);
        }
        if Instant::now() >= issued.until {
            return Err(JoinRefusal::Expired);
        }
        let bad = |why: String| JoinRefusal::BadRequest(why);
        let peer = PeerId::new(Role::Node, &request.name).map_err(|e| bad(e.to_string()))?;
        let reserved = self.reserved.get().is_some_and(|Reserved(has)| has(peer.name()));
        if reserved && !self.has_ended(peer.name()) || taken(&peer) {
            return Err(JoinRefusal::NameTaken(request.name.clone()));
        }
        let csr = CertificateRequest::read(&request.csr).map_err(|e| bad(e.to_string()))?;
        let certificate = self.authority.sign(&peer, &csr, self.next_number(&peer));
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        issued.used = true;
        self.changed.send_replace(());
        Ok((peer, certificate))
    }
}

// === impl Revoked, Reserved, Told ===

impl fmt::Debug for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Revoked").field(&self.list).finish()
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reserved")
    }
}
