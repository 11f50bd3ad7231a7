//! How nodes are let in, and how peers get their next certificate: an authority and the tokens that it has
//! given out.

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

/// Tokens that are known at once; for one more a used one is forgotten, or the one that expires next.
const TOKENS_MAX: usize = 1024;

/// Wrong secrets after which a token is void: nobody mistypes it that often.
const WRONG_MAX: u32 = 5;

/// Signs the certificates of nodes that bring a token (**LK-7**), and the next ones of peers that have
/// one (**LK-12**). Tokens live in memory: those
/// given out before a restart are void after it.
#[derive(Debug)]
pub struct Enrollment {
    authority: Authority,
    reserved: OnceLock<Reserved>,
    told: OnceLock<Told>,
    issued: Mutex<HashMap<[u8; 8], Issued>>,
    /// Says that a token may have been spent.
    changed: watch::Sender<()>,
    /// Locked after `issued`.
    revoked: Mutex<Revoked>,
    /// The end of the last certificate of each node that is known to have one.
    ends: Mutex<HashMap<String, SystemTime>>,
}

/// Writes a list of revoked certificates down, so that a restart knows it.
pub type KeepRevocations = Box<dyn FnMut(&Revocations) -> io::Result<()> + Send>;

/// Somebody's certificate was renewed, or was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Whose it is.
    pub peer: PeerId,
    /// Until when the next one is good, or why there is none.
    pub outcome: Result<SystemTime, RenewRefusal>,
}

/// Is told of every renewal, and may block.
pub type TellRenewal = Arc<dyn Fn(&Renewal) + Send + Sync>;

struct Revoked {
    list: Revocations,
    keep: KeepRevocations,
}

/// Says which names are expected back.
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
    /// An enrollment that has given out no token, and has all these certificates revoked. `keep` is given
    /// the list when it grows.
    #[must_use]
    pub fn new(authority: Authority, list: Revocations, keep: KeepRevocations) -> Self {
        let revoked = Mutex::new(Revoked { list, keep });
        let (reserved, told, issued, changed) = Default::default();
        Self { authority, reserved, told, issued, changed, revoked, ends: Mutex::default() }
    }

    /// Turns away every certificate that a node of this name has got so far (**LK-10**). A connection
    /// that exists is for the caller to close.
    ///
    /// # Errors
    /// The list could not be kept: then nothing is revoked.
    pub fn revoke(&self, name: &str) -> io::Result<()> {
        // Nothing is signed meanwhile.
        let _issued = self.issued.lock();
        let mut revoked = self.revoked();
        let mut list = revoked.list.clone();
        list.revoke(name, now());
        (revoked.keep)(&list)?;
        revoked.list = list;
        Ok(())
    }

    /// Whether the certificate with this number of a peer was revoked.
    pub(crate) fn has_revoked(&self, peer: &PeerId, number: u64) -> bool {
        peer.role() == Role::Node && self.revoked().list.has(peer.name(), number)
    }

    /// A peer has a certificate that is good until then.
    pub(crate) fn has_certificate(&self, peer: &PeerId, until: SystemTime) {
        if peer.role() == Role::Node {
            let mut ends = self.ends.lock();
            let end = ends.entry(peer.name().to_owned()).or_insert(until);
            *end = until.max(*end);
        }
    }

    /// The end of the last certificate of a node, if the node has been seen since this enrollment was made.
    #[must_use]
    pub fn certificate_end(&self, node: &str) -> Option<SystemTime> {
        self.ends.lock().get(node).copied()
    }

    /// Whether the node cannot come back with a certificate, because the last one has ended.
    fn has_ended(&self, name: &str) -> bool {
        self.certificate_end(name).is_some_and(|until| until < SystemTime::now())
    }

    /// The next certificate of a peer, DER, and its end. The peer is connected by the certificate with
    /// this `number`, which need not be good any more.
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
        // Nothing is revoked meanwhile.
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

    /// Later than what was revoked, though the clock was set back.
    fn next_number(&self, peer: &PeerId) -> u64 {
        now().max(self.revoked().list.last(peer.name()).saturating_add(1))
    }

    /// From now on, every renewal is told, refused ones as well. What was said first stays.
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
    /// disconnected: the node comes back with the certificate that it has, for as long as the certificate is
    /// good. The first `reserved` stays.
    pub fn reserve(&self, reserved: impl Fn(&str) -> bool + Send + Sync + 'static) {
        let _ = self.reserved.set(Reserved(Box::new(reserved)));
    }

    /// The authority behind it.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A new token, good for one node within `ttl`.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn issue(&self, ttl: Duration) -> Result<JoinToken, IdentityError> {
        let (mut id, mut secret) = ([0; 8], [0; 16]);
        let random = SystemRandom::new();
        let filled = random.fill(&mut id).and_then(|()| random.fill(&mut secret));
        filled.map_err(|_| failed("making a token")("the system gives no randomness"))?;
        let token = JoinToken { id, secret, authority: self.authority.hash() };
        let until = Instant::now() + ttl;
        let mut issued = self.issued.lock();
        if issued.len() >= TOKENS_MAX {
            // A used one before one that may still be brought.
            let least = issued.iter().min_by_key(|(_, issued)| (!issued.used, issued.until));
            let least = least.map(|(id, _)| *id);
            least.and_then(|id| issued.remove(&id));
        }
        issued.insert(id, Issued { token: token.clone(), until, used: false, wrong: 0 });
        self.changed.send_replace(());
        Ok(token)
    }

    /// Completes when nobody can join with this token any more: it was used, has expired, or is void.
    pub async fn until_spent(&self, token: &JoinToken) {
        let mut changed = self.changed.subscribe();
        while let Some(until) = self.good_until(token) {
            // Whether it changed or expired, the next look tells; the sender is ours.
            drop(timeout_at(until, changed.changed()).await);
        }
    }

    /// When a token expires that is good now.
    fn good_until(&self, token: &JoinToken) -> Option<Instant> {
        let issued = self.issued.lock();
        let Issued { until, used, wrong, .. } = issued.get(&token.id)?;
        let good = !used && *wrong < WRONG_MAX && Instant::now() < *until;
        good.then_some(*until)
    }

    /// A certificate, DER, for a request that proves its token. `taken` says whether a peer is
    /// connected.
    pub(crate) fn admit(
        &self,
        request: &JoinRequest,
        session: &[u8; 32],
        taken: impl FnOnce(&PeerId) -> bool,
    ) -> Result<(PeerId, Vec<u8>), JoinRefusal> {
        let mut issued = self.issued.lock();
        let issued = issued.get_mut(&request.token).ok_or(JoinRefusal::UnknownToken)?;
        // What a token is worth is told to its owner only, so the proof comes first.
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
