//! Certificates that end, and how a peer gets its next one in time (**LK-12**).

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use playhouse_wire::{PeerId, RenewRefusal, RenewReply, RenewRequest};
use rcgen::{CertificateParams, KeyPair};
use tokio::time::{Duration, Instant, sleep};

use crate::backoff::{Backoff, share, splitmix};
use crate::desk::JoinDesk;
use crate::endpoint::{Endpoint, Shared};
use crate::identity::{Identity, IdentityError, Term, failed};
use crate::inbox::Incoming;
use crate::peer::{CallError, Peer};
use crate::stream::Stream;

/// A certificate is renewed when this much of its time is over, and a random part of [`SPREAD`]: two
/// thirds on average, and those that joined together do not ask together.
const BEGIN: f64 = 0.6;
const SPREAD: f64 = 2.0 / 15.0;

/// How long the head may take to sign.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait before the clock is looked at again, which may have been set, or have gone on while the
/// machine was asleep.
const LOOK: Duration = Duration::from_secs(60);

/// Shortest and longest first wait after a failure, and the longest of all.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// Longest time in which a connection gets no second certificate, where they are good for long.
const TOO_SOON_MAX: Duration = Duration::from_secs(30);

/// Writes an identity down, so that the next start of this process has it. May block.
pub type KeepIdentity = Arc<dyn Fn(&Identity) -> io::Result<()> + Send + Sync>;

/// Somebody's certificate was renewed, or was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Whose it is.
    pub peer: PeerId,
    /// Until when the next one is good, or why there is none.
    pub outcome: Result<SystemTime, RenewRefusal>,
}

/// Why there is no next certificate yet.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    Local(#[from] IdentityError),
    #[error(transparent)]
    Unanswered(#[from] CallError),
    #[error("refused: {0}")]
    Refused(#[from] RenewRefusal),
    #[error("it is good, but cannot be written down: {0}")]
    Kept(#[from] io::Error),
}

/// Answers who asks for its next certificate on one connection.
#[derive(Debug)]
pub(crate) struct Renewals {
    desk: Arc<JoinDesk>,
    peer: PeerId,
    /// Of the certificate that the connection was made with.
    number: u64,
    last: Mutex<Option<Instant>>,
}

// === impl Endpoint ===

impl Endpoint {
    /// Renews the certificate of this endpoint over a connection to the head, whenever it is time to, and
    /// has each `keep` it: until it is dropped. New connections show the new one; those that stand are
    /// not touched. What fails is tried again, the sooner the less time is left.
    pub async fn renew_over(&self, head: &Peer, keep: KeepIdentity) -> Infallible {
        let mut failures = 0;
        // The twin has no certificates.
        while let Some(identity) = self.shared.identity() {
            let term = identity.term();
            match failures {
                0 => until(due(&term)).await,
                again => sleep(wait(again, left(&term), term.number)).await,
            }
            if head.lost().borrow().is_some() {
                break;
            }
            failures = match self.renew(&identity, head, &keep).await {
                Ok(()) => 0,
                Err(why) => {
                    tracing::warn!(%why, ends_in = ?left(&term), "the certificate was not renewed");
                    failures + 1
                }
            };
        }
        pending().await
    }

    async fn renew(
        &self,
        own: &Identity,
        head: &Peer,
        keep: &KeepIdentity,
    ) -> Result<(), NotRenewed> {
        let key = KeyPair::generate().map_err(failed("making a key"))?;
        let peer = own.peer();
        let params = CertificateParams::new([peer.host_name()]);
        let csr = params.and_then(|params| params.serialize_request(&key));
        let csr = csr.map_err(failed("making a certificate request"))?.der().to_vec();
        let certificate = match head.call(RenewRequest { csr }, PATIENCE).await? {
            RenewReply::Granted { certificate } => certificate,
            RenewReply::Refused(why) => return Err(why.into()),
        };
        let authority = own.authority().to_vec();
        let identity = Identity::new(peer, authority, certificate, key.serialize_der())?;
        // Kept before it is shown: a connection that is lost in between leaves one here that is renewed
        // over the next, and not one that the next start of this process does not know.
        let (keep, keeps) = (Arc::clone(keep), identity.clone());
        let kept = tokio::task::spawn_blocking(move || keep(&keeps)).await;
        self.shared.show(&identity)?;
        tracing::info!(%peer, "certificate renewed");
        Ok(kept.map_err(io::Error::other)??)
    }
}

/// Renews the certificate of the endpoint that has the desk, until the endpoint is gone.
pub(crate) async fn renew_own(endpoint: Weak<Shared>, desk: Arc<JoinDesk>) {
    while let Some(own) = endpoint.upgrade().and_then(|shared| shared.identity()) {
        until(due(&own.term())).await;
        let Some(shared) = endpoint.upgrade() else { return };
        let peer = own.peer().clone();
        let next = desk.authority().identify(&peer);
        match next.and_then(|next| shared.show(&next).map(|()| next.good_until())) {
            Ok(until) => desk.tell(Renewal { peer, outcome: Ok(until) }).await,
            Err(why) => {
                tracing::warn!(%why, "the certificate of the head was not renewed");
                sleep(AGAIN).await;
            }
        }
    }
}

// === impl Renewals ===

impl Renewals {
    pub(crate) fn new(desk: &Arc<JoinDesk>, peer: &PeerId, number: u64) -> Self {
        let (desk, peer) = (Arc::clone(desk), peer.clone());
        Self { desk, peer, number, last: Mutex::default() }
    }

    /// Answers one that asks.
    pub(crate) async fn answer(&self, incoming: Incoming) {
        let Ok((request, Stream { mut sender, .. })) = incoming.take::<RenewRequest>() else {
            return;
        };
        let reply = match self.renew(&request).await {
            Ok(certificate) => RenewReply::Granted { certificate },
            Err(refusal) => RenewReply::Refused(refusal),
        };
        // One that is gone needs no answer.
        if sender.send(&reply).await.is_ok() {
            drop(sender.finish().await);
        }
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Vec<u8>, RenewRefusal> {
        self.not_too_soon()?;
        let renewed = self.desk.renew(&self.peer, self.number, &request.csr);
        let (outcome, reply) = match renewed {
            Ok((certificate, until)) => (Ok(until), Ok(certificate)),
            Err(refusal) => {
                tracing::warn!(peer = %self.peer, %refusal, "certificate not renewed");
                (Err(refusal.clone()), Err(refusal))
            }
        };
        self.desk.tell(Renewal { peer: self.peer.clone(), outcome }).await;
        reply
    }

    /// Signing costs little, but somebody writes down what is signed.
    fn not_too_soon(&self) -> Result<(), RenewRefusal> {
        let pause = (self.desk.authority().lifetime() / 1000).min(TOO_SOON_MAX);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < pause) {
            return Err(RenewRefusal::TooSoon { seconds: pause.as_secs().max(1) });
        }
        *last = Some(Instant::now());
        Ok(())
    }
}

/// How long a certificate is good yet.
fn left(term: &Term) -> Duration {
    term.until.duration_since(SystemTime::now()).unwrap_or_default()
}

/// When a certificate is to be renewed.
fn due(term: &Term) -> SystemTime {
    let lifetime = term.until.duration_since(term.from).unwrap_or_default();
    term.from + lifetime.mul_f64(BEGIN + SPREAD * share(splitmix(&mut { term.number })))
}

/// The wait after so many failures: it doubles with each, and leaves time for several more while there
/// is any.
fn wait(failures: u32, left: Duration, seed: u64) -> Duration {
    let first = (left / 8).clamp(AGAIN_MIN, AGAIN);
    let max = (left / 8).clamp(AGAIN, AGAIN_MAX);
    let backoff = Backoff { first, max, ..Backoff::default() };
    backoff.wait(failures - 1, splitmix(&mut (seed ^ u64::from(failures))))
}

async fn until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests;
