//! The restart budget: how often and how fast a replica may be restarted.
//!
//! ractor restarts nothing by itself and knows no restart intensity. The rule is that of Erlang's
//! supervisors (a number of restarts in a period, then escalate) with an exponential backoff.
//!
//! - **RB-1** the first losses of a period are answered at once, and each doubles the wait for the next,
//!   from 10 ms to a minute; a random half of a wait keeps apart what was lost together.
//! - **RB-2** a replica that has served is not given up before it has failed to come back for the whole
//!   patience, in which requests may wait for it; it is back when it has served for a second. A replica
//!   that never served is given up after the first losses: its configuration is wrong, and a person
//!   waits for its start.
//! - **RB-3** a replica that was given up is tried again while no other serves, at first after ten
//!   seconds.
//! - **RB-4** losses age with time spent loading or serving, not with time spent waiting.

use std::collections::VecDeque;
use std::time::Duration;

/// The number of losses within [`PERIOD`] that are answered at once.
const QUICK_MAX: usize = 5;
/// The period of loading and serving over which losses count.
const PERIOD: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// The shortest wait before a replica that was given up is tried again.
const RETRY_MIN: Duration = Duration::from_secs(10);
/// How long a replica has to serve to be back.
const BACK: Duration = Duration::from_secs(1);
/// The number of losses that are remembered; the longest backoff is reached before.
const REMEMBERED_MAX: usize = 16;

/// The answer to a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start again after this time.
    Restart(Duration),
    /// Give up, and try again after this time if no other replica serves.
    GiveUp(Duration),
}

/// The memory of recent restarts. Time is an argument: any clock that does not go back.
#[derive(Debug)]
pub(crate) struct RestartBudget {
    /// For each recent loss, the time spent loading or serving until then.
    recent: VecDeque<Duration>,
    /// The time spent loading or serving until the last loss.
    up: Duration,
    /// Since when the replica has been loading or serving.
    up_since: Option<Duration>,
    has_served: bool,
    /// Since when the replica has been serving.
    serving_since: Option<Duration>,
    /// Since when the replica has failed to come back.
    failing_since: Option<Duration>,
    /// How long requests may wait.
    patience: Duration,
    /// The state of the generator of the jitter.
    random: u64,
}

// === impl RestartBudget ===

impl RestartBudget {
    /// Returns a whole budget for a replica for which requests wait as long as `patience`. `seed` keeps
    /// apart the restarts of replicas that are lost together.
    pub(crate) fn new(seed: u64, patience: Duration) -> Self {
        Self {
            recent: VecDeque::new(),
            up: Duration::ZERO,
            up_since: None,
            has_served: false,
            serving_since: None,
            failing_since: None,
            patience,
            random: seed,
        }
    }

    /// Records that the replica is being started, from `now` on.
    pub(crate) fn starts(&mut self, now: Duration) {
        self.up_since.get_or_insert(now);
    }

    /// Records that the replica serves.
    pub(crate) fn serves(&mut self, now: Duration) {
        self.starts(now);
        self.has_served = true;
        self.serving_since.get_or_insert(now);
    }

    /// Records that the replica is lost, and returns what to do about that.
    pub(crate) fn lost(&mut self, now: Duration) -> Verdict {
        if let Some(since) = self.up_since.take() {
            self.up += now.saturating_sub(since);
        }
        while self.recent.front().is_some_and(|lost| self.up - *lost > PERIOD) {
            self.recent.pop_front();
        }
        let wait = self.backoff();
        let served = self.serving_since.take().map(|since| now.saturating_sub(since));
        if served.is_some_and(|served| served >= BACK) {
            self.failing_since = None;
        }
        let first = *self.failing_since.get_or_insert(now);
        let spent = self.recent.len() >= QUICK_MAX;
        if self.recent.len() < REMEMBERED_MAX {
            self.recent.push_back(self.up);
        }
        match spent && (!self.has_served || now.saturating_sub(first) >= self.patience) {
            true => Verdict::GiveUp(wait.max(RETRY_MIN)),
            false => Verdict::Restart(wait),
        }
    }

    /// Records that the replica cannot start for want of a device, which is not its fault.
    pub(crate) fn waits(&mut self, now: Duration) {
        if let Some(since) = self.up_since.take() {
            self.up += now.saturating_sub(since);
        }
    }

    /// Takes the latest losses off the account, because other replicas or requests were to blame.
    pub(crate) fn refund(&mut self, losses: usize) {
        self.recent.truncate(self.recent.len().saturating_sub(losses));
    }

    fn backoff(&mut self) -> Duration {
        let doublings = u32::try_from(self.recent.len()).unwrap_or(u32::MAX).min(20);
        let half = (FIRST_BACKOFF * (1 << doublings)).min(LAST_BACKOFF) / 2;
        half + half.mul_f64(self.part())
    }

    /// Returns a random number from 0 to 1: a step of Knuth's MMIX generator, of which the upper bits
    /// are good.
    fn part(&mut self) -> f64 {
        let next = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = next.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Starts for `start` and serves for `served` at a time, if at all, and is lost. Returns the
    /// verdicts, each waited for.
    fn losses(
        count: usize,
        start: Duration,
        served: Option<Duration>,
        seed: u64,
    ) -> Vec<(Duration, Verdict)> {
        let mut budget = RestartBudget::new(seed, PATIENCE);
        let mut now = Duration::ZERO;
        let loss = |_| {
            budget.starts(now);
            now += start;
            if let Some(served) = served {
                budget.serves(now);
                now += served;
            }
            let (at, verdict) = (now, budget.lost(now));
            let (Verdict::Restart(wait) | Verdict::GiveUp(wait)) = verdict;
            now += wait;
            (at, verdict)
        };
        (0..count).map(loss).collect()
    }

    fn given_up(losses: &[(Duration, Verdict)]) -> Option<Duration> {
        let first = losses.iter().find(|(_, it)| matches!(it, Verdict::GiveUp(_)));
        first.map(|(at, _)| *at)
    }

    /// **RB-1**
    #[test]
    fn waits_double_from_milliseconds_to_a_minute() {
        let verdicts = losses(16, Duration::ZERO, Some(Duration::ZERO), 7);
        for (n, (_, verdict)) in verdicts.iter().enumerate() {
            let full = (Duration::from_millis(10) * (1 << n)).min(seconds(60));
            let (Verdict::Restart(wait) | Verdict::GiveUp(wait)) = *verdict;
            assert!(full / 2 <= wait && wait <= full.max(RETRY_MIN), "{n}: {wait:?} of {full:?}");
        }
    }

    /// **RB-2**
    #[test]
    fn what_has_served_is_given_up_when_nobody_waits_for_it_any_more() {
        let verdicts = losses(16, Duration::ZERO, Some(Duration::ZERO), 7);
        let at = given_up(&verdicts).expect("some time");
        assert!((PATIENCE..3 * PATIENCE).contains(&at), "{at:?}");
        let never = losses(6, Duration::ZERO, None, 7);
        assert!(given_up(&never).is_some_and(|at| at < seconds(1)), "{never:?}");
        assert!(given_up(&never[..5]).is_none(), "{never:?}");
    }

    /// **RB-2**: losses that add up over minutes are no failure to come back.
    #[test]
    fn what_comes_back_between_its_losses_is_never_given_up() {
        let verdicts = losses(40, Duration::ZERO, Some(seconds(3)), 7);
        assert!(verdicts.last().is_some_and(|(at, _)| *at > 2 * PATIENCE), "{verdicts:?}");
        assert_eq!(given_up(&verdicts), None);
        let mut budget = RestartBudget::new(7, PATIENCE);
        let mut now = Duration::ZERO;
        for turn in 0..40 {
            budget.serves(now);
            now += seconds(3);
            // And then it cannot load for a while.
            for _ in 0..4 {
                let verdict = budget.lost(now);
                let Verdict::Restart(_) = verdict else { panic!("{turn}: {verdict:?}") };
                now += seconds(1);
                budget.starts(now);
            }
        }
    }

    /// **RB-4**
    #[test]
    fn a_minute_of_service_or_of_loading_restores_the_budget() {
        for (start, served) in [(0, Some(61)), (0, Some(13)), (13, None), (61, None)] {
            let verdicts = losses(40, seconds(start), served.map(seconds), 7);
            assert_eq!(given_up(&verdicts), None, "{start} {served:?}");
        }
    }

    /// A loss that a request is blamed for.
    #[test]
    fn what_was_refunded_was_never_charged() {
        let mut budget = RestartBudget::new(7, PATIENCE);
        for n in 0..50u64 {
            budget.serves(seconds(n));
            let verdict = budget.lost(seconds(n));
            let Verdict::Restart(wait) = verdict else { panic!("{n}: {verdict:?}") };
            assert!(wait <= Duration::from_millis(40), "{n}: {wait:?}");
            if n % 3 == 2 {
                budget.refund(3);
            }
        }
    }

    #[test]
    fn replicas_that_were_lost_together_start_apart() {
        let waits = |seed| losses(5, seconds(1), Some(seconds(1)), seed)[4].1;
        let waits: Vec<_> = (0..8).map(waits).collect();
        let mut apart: Vec<_> = waits.iter().map(|verdict| format!("{verdict:?}")).collect();
        apart.sort_unstable();
        apart.dedup();
        assert_eq!(apart.len(), 8, "{waits:?}");
    }
}
