//! How often and how fast something may be restarted.
//!
//! ractor restarts nothing by itself and knows no restart intensity. The rule is that of Erlang's
//! supervisors (so many restarts in such a period, then escalate) with an exponential backoff.

use std::collections::VecDeque;
use std::time::Duration;

/// Restarts allowed within [`PERIOD`]; the next one escalates.
const RESTARTS_MAX: usize = 5;
const PERIOD: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(10);

/// Remembers recent restarts. Time is an argument: any clock that does not go back.
#[derive(Debug, Default)]
pub(crate) struct RestartBudget {
    recent: VecDeque<Duration>,
}

impl RestartBudget {
    /// Asks for a restart at `now`: how long to wait before it, or `None` when the budget is
    /// spent. The wait doubles with each restart of the period, from 10 ms to 160 ms.
    pub(crate) fn take(&mut self, now: Duration) -> Option<Duration> {
        while self.recent.front().is_some_and(|&then| now.saturating_sub(then) > PERIOD) {
            self.recent.pop_front();
        }
        if self.recent.len() >= RESTARTS_MAX {
            return None;
        }
        let backoff = FIRST_BACKOFF * (1 << self.recent.len());
        self.recent.push_back(now);
        Some(backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_restart_of_a_minute_is_refused() {
        let mut budget = RestartBudget::default();
        let waits: Vec<_> = (0..6).map(|s| budget.take(Duration::from_secs(s))).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(waits, [ms(10), ms(20), ms(40), ms(80), ms(160), None]);
    }

    #[test]
    fn a_quiet_minute_restores_the_budget() {
        let mut budget = RestartBudget::default();
        for s in 0..5 {
            assert!(budget.take(Duration::from_secs(s)).is_some());
        }
        assert_eq!(budget.take(Duration::from_secs(65)), Some(FIRST_BACKOFF));
    }
}
