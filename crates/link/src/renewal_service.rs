//! The head's service that answers peers which ask for their next certificate (**LK-12**).

use std::sync::Arc;

use parking_lot::Mutex;
use playhouse_wire::{PeerId, RenewRefusal, RenewReply, RenewRequest};
use tokio::time::{Duration, Instant};

use crate::enrollment::{Enrollment, Renewal};
use crate::stream::Sender;

/// The maximum time in which a connection gets no second certificate, if certificates live long.
const TOO_SOON_MAX: Duration = Duration::from_secs(30);

/// The service that answers requests for the next certificate on one connection.
#[derive(Debug)]
pub(crate) struct RenewalService {
    enrollment: Arc<Enrollment>,
    peer: PeerId,
    /// The number of the certificate that the connection was made with.
    number: u64,
    last: Mutex<Option<Instant>>,
}

// === impl RenewalService ===

impl RenewalService {
    pub(crate) fn new(enrollment: &Arc<Enrollment>, peer: &PeerId, number: u64) -> Self {
        let (enrollment, peer) = (Arc::clone(enrollment), peer.clone());
        Self { enrollment, peer, number, last: Mutex::default() }
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, request: RenewRequest, mut sender: Sender<RenewReply>) {
        let reply = match self.renew(&request).await {
            Ok(certificate) => RenewReply::Granted { certificate },
            Err(refusal) => RenewReply::Refused(refusal),
        };
        // A peer that is gone needs no answer.
        if sender.send(&reply).await.is_ok() {
            drop(sender.finish().await);
        }
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Vec<u8>, RenewRefusal> {
        self.not_too_soon()?;
        let renewed = self.enrollment.renew(&self.peer, self.number, &request.csr);
        let (outcome, reply) = match renewed {
            Ok((certificate, until)) => (Ok(until), Ok(certificate)),
            Err(refusal) => {
                tracing::warn!(peer = %self.peer, %refusal, "certificate not renewed");
                (Err(refusal.clone()), Err(refusal))
            }
        };
        self.enrollment.tell(Renewal { peer: self.peer.clone(), outcome }).await;
        reply
    }

    /// Refuses requests in quick succession: signing costs little, but each signature is logged.
    fn not_too_soon(&self) -> Result<(), RenewRefusal> {
        let pause = (self.enrollment.authority().lifetime() / 1000).min(TOO_SOON_MAX);
        let mut last = self.last.lock();
        if last.is_some_and(|last| last.elapsed() < pause) {
            return Err(RenewRefusal::TooSoon { seconds: pause.as_secs().max(1) });
        }
        *last = Some(Instant::now());
        Ok(())
    }
}
