//! The line that a busy server logs every ten seconds: throughput, queue, and use of the caches.
//!
//! - **AC-1** an idle server logs nothing: a line means that tokens were computed since the last, or that
//!   requests are running or waiting.
//! - **AC-2** rates are averages over the time since the last line.

use std::convert::Infallible;
use std::time::Duration;

use playhouse_cluster::{FrontDoor, ReplicaStatus};
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

/// The time between two lines.
const PERIOD: Duration = Duration::from_secs(10);

/// The counts of all replicas together, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    prompt_tokens: u64,
    generated_tokens: u64,
    queried_tokens: u64,
    hit_tokens: u64,
    running: usize,
    /// Requests that were accepted and do not run, also those that wait for a replica.
    waiting: usize,
    kv_blocks_held: usize,
    kv_blocks: usize,
}

/// What happened between two moments.
#[derive(Debug, PartialEq)]
struct Activity {
    prompt_tokens_per_s: f64,
    generated_tokens_per_s: f64,
    running: usize,
    waiting: usize,
    kv_cache_percent: f64,
    /// The prompt tokens found in the prefix cache; `None` if none were looked up.
    prefix_hit_percent: Option<f64>,
}

/// Logs the activity of a server, for as long as the future is polled.
pub(super) async fn log(door: FrontDoor) -> Infallible {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut then, mut before) = (ticks.tick().await, Counts::of(&door));
    loop {
        let now = ticks.tick().await;
        let counts = Counts::of(&door);
        if let Some(activity) = counts.since(&before, now - then) {
            activity.log();
        }
        (then, before) = (now, counts);
    }
}

// === impl Counts ===

impl Counts {
    fn of(door: &FrontDoor) -> Self {
        Self::sum(&door.replicas(), door.in_flight() as usize)
    }

    fn sum(replicas: &[ReplicaStatus], in_flight: usize) -> Self {
        let counts = replicas.iter().fold(Self::default(), |all, replica| Self {
            prompt_tokens: all.prompt_tokens + replica.prefill_tokens,
            generated_tokens: all.generated_tokens + replica.generated_tokens,
            queried_tokens: all.queried_tokens + replica.prefix_queried_tokens,
            hit_tokens: all.hit_tokens + replica.prefix_hit_tokens,
            running: all.running + replica.running,
            waiting: 0,
            kv_blocks_held: all.kv_blocks_held + replica.kv_blocks_held,
            kv_blocks: all.kv_blocks + replica.kv_blocks,
        });
        Self { waiting: in_flight.saturating_sub(counts.running), ..counts }
    }

    /// Returns the activity since `before`; `None` if there was none (**AC-1**). Counters that went down
    /// belong to a replica that was removed.
    fn since(&self, before: &Self, elapsed: Duration) -> Option<Activity> {
        let prompt = self.prompt_tokens.saturating_sub(before.prompt_tokens);
        let generated = self.generated_tokens.saturating_sub(before.generated_tokens);
        let queried = self.queried_tokens.saturating_sub(before.queried_tokens);
        let hits = self.hit_tokens.saturating_sub(before.hit_tokens);
        let Self { running, waiting, .. } = *self;
        let is_idle = prompt + generated == 0 && running + waiting == 0;
        let rate = |tokens: u64| tokens as f64 / elapsed.as_secs_f64();
        (!is_idle && !elapsed.is_zero()).then(|| Activity {
            prompt_tokens_per_s: rate(prompt),
            generated_tokens_per_s: rate(generated),
            running,
            waiting,
            kv_cache_percent: percent(self.kv_blocks_held as u64, self.kv_blocks as u64),
            prefix_hit_percent: (queried > 0).then(|| percent(hits, queried)),
        })
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

// === impl Activity ===

impl Activity {
    fn log(&self) {
        let rounded = |number: f64| (number * 10.0).round() / 10.0;
        info!(
            prompt_tokens_per_s = rounded(self.prompt_tokens_per_s),
            generated_tokens_per_s = rounded(self.generated_tokens_per_s),
            running = self.running,
            waiting = self.waiting,
            kv_cache_percent = rounded(self.kv_cache_percent),
            prefix_hit_percent = self.prefix_hit_percent.map(rounded),
            "serving"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn busy() -> Counts {
        Counts {
            prompt_tokens: 1000,
            generated_tokens: 500,
            queried_tokens: 400,
            hit_tokens: 100,
            running: 3,
            waiting: 2,
            kv_blocks_held: 25,
            kv_blocks: 200,
        }
    }

    #[test]
    fn rates_are_averages_since_the_last_line() {
        let before = Counts { prompt_tokens: 400, generated_tokens: 450, ..Counts::default() };
        let activity = busy().since(&before, TEN).expect("it is busy");
        let expected = Activity {
            prompt_tokens_per_s: 60.0,
            generated_tokens_per_s: 5.0,
            running: 3,
            waiting: 2,
            kv_cache_percent: 12.5,
            prefix_hit_percent: Some(25.0),
        };
        assert_eq!(activity, expected);
    }

    /// **AC-1**
    #[test]
    fn an_idle_server_says_nothing() {
        let idle = Counts { running: 0, waiting: 0, ..busy() };
        assert_eq!(idle.since(&idle, TEN), None);
        let finished = idle.since(&Counts { generated_tokens: 499, ..idle }, TEN);
        assert_eq!(finished.expect("a token was generated").generated_tokens_per_s, 0.1);
        let parked = Counts { waiting: 1, ..Counts::default() };
        let waits = parked.since(&parked, TEN).expect("a request waits");
        assert_eq!(
            (waits.waiting, waits.kv_cache_percent, waits.prefix_hit_percent),
            (1, 0.0, None)
        );
    }

    #[test]
    fn a_removed_replica_takes_its_counts_along() {
        let activity = Counts { running: 1, ..Counts::default() }.since(&busy(), TEN);
        let activity = activity.expect("a request runs");
        assert_eq!((activity.prompt_tokens_per_s, activity.generated_tokens_per_s), (0.0, 0.0));
    }
}
