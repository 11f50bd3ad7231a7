//! Detects replicas that answer and compute, and are several times slower than their peers: a rank with
//! a share of a core, a device that is throttled, a disk that is read where memory should be.
//!
//! - **OL-1** a replica is an outlier when its steps have taken [`FACTOR`] times what its peers take for such
//!   steps for [`SLOW_FOR`] without a break. Steps are compared by their work, as the watchdog does.
//! - **OL-2** a replica is an outlier only beside peers: more than half of the other replicas that serve
//!   are quick, and at least one is.
//! - **OL-3** an outlier gets no new requests while others serve, and its requests go on elsewhere. The
//!   outlier is tried again after [`EJECTED_FOR`], and each time that it is found slow again after twice
//!   as long.
//!
//! The rule is that of Envoy's outlier detection. Pure: time is an argument. Not here: what is done
//! about an outlier (see `replica`).

use std::time::Duration;

/// How many times slower than its peers a replica is when its steps count as slow.
const FACTOR: f64 = 4.0;
/// How long every step has to be slow: any machine has moments at which it does something else. A hang
/// is seen before that (**W-1** of `watchdog`).
const SLOW_FOR: Duration = Duration::from_secs(3);
/// Steps that take less than this are not slow, whatever peers take.
const STEP_MIN: Duration = Duration::from_millis(50);
/// How long an outlier gets no requests at first.
const EJECTED_FOR: Duration = Duration::from_secs(30);
/// The longest time that an outlier gets no requests.
const EJECTED_MAX: Duration = Duration::from_secs(600);

/// The slowness of one replica, compared with its peers.
#[derive(Debug, Default)]
pub(crate) struct Slowness {
    /// Since when every step was slow.
    since: Option<Duration>,
    /// How many times slower than its peers the last slow step was.
    ratio: f64,
    /// Until when the replica is an outlier.
    until: Option<Duration>,
    /// How often the replica was found to be an outlier, without a good time between.
    found: u32,
}

// === impl Slowness ===

impl Slowness {
    /// Records that a step took `took`, for which peers take `peers`, if that is known.
    pub(crate) fn measured(&mut self, took: Duration, peers: Option<Duration>, now: Duration) {
        self.under_way(took, peers, now);
        if !self.is_slow(took, peers) {
            self.since = None;
            if self.until.is_none_or(|until| now >= until + EJECTED_FOR) {
                self.found = 0;
            }
        }
    }

    /// Records that the step under way has taken `took` so far.
    pub(crate) fn under_way(&mut self, took: Duration, peers: Option<Duration>, now: Duration) {
        if self.is_slow(took, peers) {
            self.ratio = ratio(took, peers);
            self.since.get_or_insert(now.saturating_sub(took));
        }
    }

    fn is_slow(&self, took: Duration, peers: Option<Duration>) -> bool {
        took >= STEP_MIN && ratio(took, peers) >= FACTOR
    }

    /// Ejects the replica if it has been slow for long enough (**OL-1**) and enough `peers` are quick
    /// (**OL-2**). Returns how many times slower the replica is, if it was ejected.
    pub(crate) fn ejects(&mut self, peers: Peers, now: Duration) -> Option<f64> {
        let slow = self.since.is_some_and(|since| now.saturating_sub(since) >= SLOW_FOR);
        if !slow || self.is_outlier(now) || !peers.suffice() {
            return None;
        }
        let time = EJECTED_FOR * (1 << self.found.min(8));
        self.until = Some(now + time.min(EJECTED_MAX));
        self.found += 1;
        self.since = None;
        Some(self.ratio)
    }

    /// Returns whether the replica is an outlier and gets no requests (**OL-3**).
    pub(crate) fn is_outlier(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Returns how long the replica still gets no requests.
    pub(crate) fn ejected_for(&self, now: Duration) -> Duration {
        self.until.unwrap_or_default().saturating_sub(now)
    }

    /// Forgets the slow steps, because the ranks are new.
    pub(crate) fn restart(&mut self) {
        self.since = None;
    }
}

/// Returns how many times slower than its peers a step was; 0 if nothing is known of the peers.
fn ratio(took: Duration, peers: Option<Duration>) -> f64 {
    peers.map_or(0.0, |peers| took.as_secs_f64() / peers.as_secs_f64().max(1e-6))
}

/// The numbers of other replicas that serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    /// Replicas that are as quick as ever.
    pub(crate) quick: usize,
    /// Outliers, and replicas of which nothing was heard for long.
    pub(crate) slow: usize,
}

// === impl Peers ===

impl Peers {
    fn suffice(self) -> bool {
        self.quick > self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Peers = Peers { quick: 1, slow: 0 };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Measures steps of `took` one after the other for a time, from `now` on, and returns when the
    /// replica is ejected.
    fn steps(
        slowness: &mut Slowness,
        took: u64,
        from: u64,
        time: u64,
        peers: Peers,
    ) -> Option<u64> {
        let mut now = from;
        while now < from + time {
            now += took;
            slowness.measured(millis(took), Some(millis(20)), millis(now));
            if slowness.ejects(peers, millis(now)).is_some() {
                return Some(now);
            }
        }
        None
    }

    /// **OL-1**
    #[test]
    fn steps_that_are_slow_without_a_break_make_an_outlier() {
        let mut slowness = Slowness::default();
        let at = steps(&mut slowness, 100, 0, 60_000, QUICK).expect("it is five times slower");
        assert!((3_000..3_500).contains(&at), "{at}");
        assert!(slowness.is_outlier(millis(at)));
        let mut slowness = Slowness::default();
        assert_eq!(steps(&mut slowness, 79, 0, 60_000, QUICK), None, "less than four times");
        let mut slowness = Slowness::default();
        for from in 0..20 {
            let slow = steps(&mut slowness, 100, from * 3_000, 2_800, QUICK);
            assert_eq!(slow, None, "a break");
            slowness.measured(millis(20), Some(millis(20)), millis(from * 3_000 + 2_950));
        }
    }

    /// One step that does not end is a slow one.
    #[test]
    fn a_step_counts_while_it_takes() {
        let mut slowness = Slowness::default();
        let mut ejected = None;
        for took in (0..5_000).step_by(250) {
            slowness.under_way(millis(took), Some(millis(20)), millis(1_000 + took));
            ejected = ejected.or(slowness.ejects(QUICK, millis(1_000 + took)).map(|_| took));
        }
        assert_eq!(ejected, Some(3_000));
    }

    /// **OL-2**
    #[test]
    fn nobody_is_an_outlier_among_the_slow() {
        for peers in [Peers { quick: 0, slow: 0 }, Peers { quick: 1, slow: 1 }] {
            assert_eq!(steps(&mut Slowness::default(), 100, 0, 60_000, peers), None, "{peers:?}");
        }
        let mut slowness = Slowness::default();
        let now = millis(100_000);
        slowness.measured(millis(5_000), None, now);
        assert_eq!(slowness.ejects(QUICK, now), None, "nothing is known of peers");
    }

    /// **OL-3**
    #[test]
    fn an_outlier_is_tried_again_later_and_later() {
        let mut slowness = Slowness::default();
        let mut now = 0;
        for wait in [30, 60, 120, 240, 480, 600, 600] {
            now = steps(&mut slowness, 100, now, 60_000, QUICK).expect("it is slow again");
            assert!(slowness.is_outlier(millis(now + wait * 1000 - 1)), "{wait}");
            now += wait * 1000;
            assert!(!slowness.is_outlier(millis(now)), "{wait}");
        }
        // A good time in which it is not found slow.
        now += 1;
        assert_eq!(steps(&mut slowness, 20, now, 40_000, QUICK), None);
        now = steps(&mut slowness, 100, now + 40_000, 60_000, QUICK).expect("it is slow again");
        assert!(!slowness.is_outlier(millis(now + 30_000)), "as at first");
    }
}
