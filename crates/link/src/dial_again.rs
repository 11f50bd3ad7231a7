//! Repeated dialling with growing, jittered waits, within a budget.

use std::io;
use std::net::SocketAddr;

use playhouse_types::Epoch;
use playhouse_wire::PeerId;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::dial::DialError;
use crate::endpoint::Endpoint;
use crate::inbox::Inbox;
use crate::peer::Peer;
use crate::random::splitmix;

/// The error when the budget of dialling is spent, or when trying again cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gave up after {attempts} attempts: {last}")]
pub struct GaveUp {
    /// The number of attempts.
    pub attempts: u32,
    /// The error of the last attempt.
    pub last: DialError,
}

// === impl Endpoint ===

impl Endpoint {
    /// Dials until the peer answers, each time at the address that `find` returns: a restarted process
    /// may have another address. Messages of an earlier connection are not sent again (**LK-5**).
    ///
    /// # Errors
    /// Returns [`GaveUp`] when the budget is spent, or at once when an operator must change something
    /// first.
    pub async fn dial_again<F>(
        &self,
        find: impl Fn() -> F,
        to: &PeerId,
        epoch: Epoch,
        backoff: Backoff,
    ) -> Result<(Peer, Inbox), GaveUp>
    where
        F: Future<Output = io::Result<SocketAddr>>,
    {
        let begun = Instant::now();
        // The number differs between processes and between their starts, which is all that jitter needs.
        let mut random = self.incarnation();
        for byte in to.name().bytes() {
            random = random.wrapping_mul(31).wrapping_add(byte.into());
        }
        let mut attempts = 0;
        loop {
            let last = match find().await {
                Ok(addr) => match self.dial(addr, to, epoch).await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => error,
                },
                Err(why) => DialError::NoAddress(why.to_string()),
            };
            let wait = backoff.wait(attempts, splitmix(&mut random));
            attempts += 1;
            if last.is_final() || begun.elapsed() + wait > backoff.budget {
                return Err(GaveUp { attempts, last });
            }
            tracing::debug!(%to, attempts, error = %last, ?wait, "dialling again");
            sleep(wait).await;
        }
    }
}
