//! The wait between attempts to dial.

use tokio::time::Duration;

use crate::random::share;

/// The limits on repeated dialling: the waits between attempts and the time for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure. The wait doubles with each further failure.
    pub first: Duration,
    /// The maximum wait.
    pub max: Duration,
    /// The time after the first attempt in which further attempts may begin.
    pub budget: Duration,
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
    /// Returns the wait after failure number `failure`, counted from 0. Half of the wait is random, which
    /// keeps peers that were lost together from coming back together.
    pub(crate) fn wait(&self, failure: u32, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failure).unwrap_or(u32::MAX));
        let half = doubled.min(self.max) / 2;
        half + half.mul_f64(share(random))
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
