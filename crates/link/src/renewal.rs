//! Certificates that end, and how a peer gets its next one in time (**LK-12**).

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use playhouse_wire::{RenewRefusal, RenewReply, RenewRequest};
use rcgen::{CertificateParams, KeyPair};
use tokio::time::{Duration, sleep};

use crate::backoff::Backoff;
use crate::endpoint_state::EndpointState;
use crate::enrollment::{Enrollment, Renewal};
use crate::identity::{Identity, IdentityError, Term, failed};
use crate::peer::{CallError, Peer};
use crate::random::{share, splitmix};

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

/// Writes an identity down, so that the next start of this process has it. May block.
pub type KeepIdentity = Arc<dyn Fn(&Identity) -> io::Result<()> + Send + Sync>;

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

/// Renews the certificate of an endpoint over a connection to the head; see
/// [`Endpoint::renew_over`](crate::Endpoint::renew_over).
pub(crate) async fn renew_over(
    endpoint: &EndpointState,
    head: &Peer,
    keep: KeepIdentity,
) -> Infallible {
    let mut failures = 0;
    // The twin has no certificates.
    while let Some(identity) = endpoint.identity() {
        let term = identity.term();
        match failures {
            0 => until(due(&term)).await,
            again => sleep(wait(again, left(&term), term.number)).await,
        }
        if head.lost().borrow().is_some() {
            break;
        }
        failures = match renew(endpoint, &identity, head, &keep).await {
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
    endpoint: &EndpointState,
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
    endpoint.show(&identity)?;
    tracing::info!(%peer, "certificate renewed");
    Ok(kept.map_err(io::Error::other)??)
}

/// Renews the certificate of the endpoint that enrolls nodes, until the endpoint is gone.
pub(crate) async fn renew_own(endpoint: Weak<EndpointState>, enrollment: Arc<Enrollment>) {
    while let Some(own) = endpoint.upgrade().and_then(|shared| shared.identity()) {
        until(due(&own.term())).await;
        let Some(shared) = endpoint.upgrade() else { return };
        let peer = own.peer().clone();
        let next = enrollment.authority().identify(&peer);
        match next.and_then(|next| shared.show(&next).map(|()| next.good_until())) {
            Ok(until) => enrollment.tell(Renewal { peer, outcome: Ok(until) }).await,
            Err(why) => {
                tracing::warn!(%why, "the certificate of the head was not renewed");
                sleep(AGAIN).await;
            }
        }
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
