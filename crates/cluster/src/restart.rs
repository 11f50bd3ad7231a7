//! How often and how fast something may be restarted.
//!
//! ractor restarts nothing by itself and knows no restart intensity. The rule is that of Erlang's
//! supervisors (so many restarts in such a period, then escalate) with an exponential backoff.

use std::collections::VecDeque;
use std::time::Duration;

/// Restarts allowed within [`PERIOD`]; the next one escalates.
const RESTARTS_MAX: usize = 5;
/// Of service: what dies before it serves does not outwait its budget by starting slowly.
const PERIOD: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(10);

/// Remembers recent restarts. Time is an argument: any clock that does not go back.
#[derive(Debug)]
pub(crate) struct RestartBudget {
    /// When they were, in time served.
    recent: VecDeque<Duration>,
    /// Time served until the last loss.
    served: Duration,
    /// Serving, since then.
    serving: Option<Duration>,
    /// Of the jitter.
    random: u64,
}

// === impl RestartBudget ===

impl RestartBudget {
    /// A whole budget. `seed` tells those apart that are lost together.
    pub(crate) fn new(seed: u64) -> Self {
        Self { recent: VecDeque::new(), served: Duration::ZERO, serving: None, random: seed }
    }

    /// It serves, from `now` on.
    pub(crate) fn serves(&mut self, now: Duration) {
        self.serving.get_or_insert(now);
    }

    /// It serves no more.
    pub(crate) fn lost(&mut self, now: Duration) {
        if let Some(since) = self.serving.take() {
            self.served += now.saturating_sub(since);
        }
    }

    /// Asks for a restart after a [loss](Self::lost): how long to wait before it, or `None` when the
    /// budget is spent. The wait doubles with each restart of the period, from 10 ms to 160 ms; a
    /// random half of it keeps replicas that were lost together from starting together.
    pub(crate) fn take(&mut self) -> Option<Duration> {
        while self.recent.front().is_some_and(|&then| self.served - then > PERIOD) {
            self.recent.pop_front();
        }
        if self.recent.len() >= RESTARTS_MAX {
            return None;
        }
        let half = FIRST_BACKOFF * (1 << self.recent.len()) / 2;
        self.recent.push_back(self.served);
        Some(half + half.mul_f64(self.part()))
    }

    /// A random number from 0 to 1: a step of Knuth's MMIX generator, of which the upper bits are
    /// good.
    fn part(&mut self) -> f64 {
        let next = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = next.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Serves for `served` at a time and dies, after a start that takes `start`: the waits.
    fn deaths(start: Duration, served: Duration, seed: u64) -> Vec<Option<Duration>> {
        let mut budget = RestartBudget::new(seed);
        let mut now = Duration::ZERO;
        let death = |_| {
            now += start;
            budget.serves(now);
            now += served;
            budget.lost(now);
            budget.take()
        };
        (0..10).map(death).collect()
    }

    #[test]
    fn the_sixth_restart_of_a_minute_is_refused() {
        let waits = deaths(Duration::ZERO, seconds(1), 7);
        for (wait, full) in waits.iter().zip([10, 20, 40, 80, 160]) {
            let (wait, full) = (wait.expect("within the budget"), Duration::from_millis(full));
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
        }
        assert!(waits[5..].iter().all(Option::is_none), "{waits:?}");
    }

    #[test]
    fn a_minute_of_service_restores_the_budget() {
        assert!(deaths(Duration::ZERO, seconds(61), 7).iter().all(Option::is_some));
        assert!(deaths(Duration::ZERO, seconds(13), 7).iter().all(Option::is_some));
    }

    #[test]
    fn a_slow_start_is_no_service() {
        let waits = deaths(seconds(600), seconds(1), 7);
        assert!(waits[5..].iter().all(Option::is_none), "{waits:?}");
    }

    #[test]
    fn replicas_that_were_lost_together_start_apart() {
        let waits: Vec<_> = (0..8).map(|seed| deaths(seconds(1), seconds(1), seed)[4]).collect();
        let mut apart = waits.clone();
        apart.sort_unstable();
        apart.dedup();
        assert_eq!(apart.len(), 8, "{waits:?}");
    }
}
