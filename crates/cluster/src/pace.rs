//! The pace at which requests leave the cluster.

use std::time::Duration;

/// The time constant, in seconds of a busy cluster, with which older departures fade.
const WINDOW: f64 = 20.0;

/// Bounds of what a refused client is told. `openai-python` heeds no more than a minute.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// A rate of departures with a fading memory. Time is an argument: any clock that does not go back.
/// While the cluster is empty, nothing can leave, so such time does not count.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Requests that left, faded.
    left: f64,
    /// Seconds watched, faded alike.
    watched: f64,
    last: Duration,
}

// === impl Pace ===

impl Pace {
    /// Resumes the measurement, because a request enters an empty cluster at `now`.
    pub(crate) fn resume(&mut self, now: Duration) {
        self.last = now;
    }

    /// Records that a request leaves.
    pub(crate) fn leave(&mut self, now: Duration) {
        self.fade(now);
        self.left += 1.0;
    }

    /// Returns how long it takes until this many requests have left, as if one more were just leaving.
    fn time_for(&mut self, requests: u32, now: Duration) -> Duration {
        self.fade(now);
        let seconds = f64::from(requests) * self.watched / (self.left + 1.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Returns when a client should come back if this many requests wait (**AD-3** of the admission).
    pub(crate) fn retry_after(&mut self, waiting: u32, now: Duration) -> Duration {
        self.time_for(waiting, now).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }

    fn fade(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.last).as_secs_f64();
        let kept = (-passed / WINDOW).exp();
        self.left *= kept;
        self.watched = self.watched * kept + WINDOW * (1.0 - kept);
        self.last = self.last.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_steady_pace_is_measured() {
        let mut pace = Pace::default();
        (1..600).for_each(|n| pace.leave(at(f64::from(n) * 0.1)));
        let wait = pace.time_for(50, at(60.0)).as_secs_f64();
        assert!((4.5..5.1).contains(&wait), "10 leave per second: {wait}");
    }

    #[test]
    fn an_empty_cluster_does_not_make_it_slow() {
        let mut pace = Pace::default();
        (1..100).for_each(|n| pace.leave(at(f64::from(n) * 0.1)));
        let before = pace.time_for(10, at(10.0));
        pace.resume(at(3600.0));
        assert_eq!(pace.time_for(10, at(3600.0)), before);
    }

    #[test]
    fn a_cluster_that_nobody_leaves_gets_slower() {
        let mut pace = Pace::default();
        assert_eq!(pace.time_for(100, at(0.0)), Duration::ZERO, "nothing is known yet");
        let early = pace.time_for(100, at(1.0));
        assert!(early > at(90.0), "{early:?}");
        assert!(pace.time_for(100, at(10.0)) > 5 * early);
    }

    /// **AD-3**
    #[test]
    fn the_time_to_come_back_follows_the_queue_and_has_bounds() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        assert_eq!(pace.retry_after(1000, at(0.0)), second, "nothing is known yet");
        (1..200).for_each(|n| pace.leave(at(f64::from(n) * 0.5)));
        let wait = pace.retry_after(20, at(100.0)).as_secs_f64();
        assert!((9.0..10.1).contains(&wait), "2 leave per second: {wait}");
        assert_eq!(pace.retry_after(0, at(100.0)), second);
        assert_eq!(pace.retry_after(u32::MAX, at(100.0)), 60 * second);
    }
}
