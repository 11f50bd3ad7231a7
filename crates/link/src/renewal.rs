//! The renewal of certificates before they expire (**LK-12**).

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

/// A certificate is renewed when this part of its lifetime is over, plus a random part of [`SPREAD`]: two
/// thirds on average, and peers that joined together do not ask together.
const BEGIN: f64 = 0.6;
const SPREAD: f64 = 2.0 / 15.0;

/// The time that the head may take to sign.
const PATIENCE: Duration = Duration::from_secs(10);

/// The maximum wait before the clock is read again, which may have been set, or have gone on while the
/// machine was asleep.
const LOOK: Duration = Duration::from_secs(60);

/// The minimum and the maximum of the first wait after a failure, and the maximum of all waits.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// A function that writes an identity down, so that the next start of this process has it. May block.
pub type KeepIdentity = Arc<dyn Fn(&Identity) -> io::Result<()> + Send + Sync>;

/// The reason why there is no next certificate yet.
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
    // The identity is kept before it is shown: if the connection is lost in between, the next connection
    // renews it again, and the next start of this process knows every certificate that was shown.
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

/// Returns how long a certificate is still valid.
fn left(term: &Term) -> Duration {
    term.until.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Returns when a certificate is due for renewal.
fn due(term: &Term) -> SystemTime {
    let lifetime = term.until.duration_since(term.from).unwrap_or_default();
    term.from + lifetime.mul_f64(BEGIN + SPREAD * share(splitmix(&mut { term.number })))
}

/// Returns the wait after so many failures: it doubles with each, and leaves time for several more
/// attempts while there is any.
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
