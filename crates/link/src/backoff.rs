//! Dialling again: with growing, jittered waits, and not for ever.

use std::io;
use std::net::SocketAddr;

use playhouse_types::Epoch;
use playhouse_wire::PeerId;
use tokio::time::{Duration, Instant, sleep};

use crate::dial::DialError;
use crate::endpoint::Endpoint;
use crate::inbox::Inbox;
use crate::peer::Peer;

/// How often and how long to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure. It doubles with each.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
    /// No attempt begins later than this after the first.
    pub budget: Duration,
}

/// The budget is spent, or there is no use in trying again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gave up after {attempts} attempts: {last}")]
pub struct GaveUp {
    /// Times it was dialled.
    pub attempts: u32,
    /// What came of the last.
    pub last: DialError,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            max: Duration::from_secs(2),
            budget: Duration::from_secs(60),
        }
    }
}

// === impl Backoff ===

impl Backoff {
    /// The wait after failure number `failure`, counted from 0. A random half of it keeps peers
    /// that were lost together from coming back together.
    pub(crate) fn wait(&self, failure: u32, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failure).unwrap_or(u32::MAX));
        let half = doubled.min(self.max) / 2;
        half + half.mul_f64(share(random))
    }
}

/// Of what a random number says: from 0 up to 1.
pub(crate) fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// One step of splitmix64 (Steele, Lea, Flood 2014).
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

// === impl Endpoint ===

impl Endpoint {
    /// Dials until the peer answers, each time where `find` says that it is: a process that was started
    /// anew may have another address. What was sent on an earlier connection is not sent again
    /// (**LK-5**).
    ///
    /// # Errors
    /// When the budget is spent, or at once when something must be changed first.
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
        // Differs between processes and between their starts, which is all that jitter needs.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_by_half() {
        let backoff = Backoff::default();
        let bounds = |failure| (backoff.wait(failure, 0), backoff.wait(failure, u64::MAX));
        let ms = Duration::from_millis;
        let near = |(low, high): (Duration, Duration), full: u64| {
            low == ms(full) / 2 && high <= ms(full) && high > ms(full) * 99 / 100
        };
        assert!(near(bounds(0), 50), "{:?}", bounds(0));
        assert!(near(bounds(3), 400), "{:?}", bounds(3));
        assert!(near(bounds(60), 2000), "{:?}", bounds(60));
    }
}
