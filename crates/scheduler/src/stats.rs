//! What a scheduler tells about itself.

use std::time::Duration;

use playhouse_kvcache::PoolStats;
use playhouse_types::RequestId;

/// Most [`Timings`] kept between two calls of [`take_timings`](crate::Scheduler::take_timings).
pub const TIMINGS_MAX: usize = 4096;

/// Gauges and counters of a scheduler, in O(1). Counters grow from its creation on and outlive
/// restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: requests with a seat.
    pub running: usize,
    /// Gauge: requests in the queue.
    pub waiting: usize,
    /// Gauge: tokens known of the requests in the queue, prompts and what they emitted before they
    /// lost their seat.
    pub waiting_tokens: usize,
    /// Gauge: plans whose outcome has not been applied.
    pub in_flight: usize,
    /// The KV blocks. Its hits and queries count every admission, those after a preemption too.
    pub kv: PoolStats,
    /// Counter: seats taken away for want of blocks.
    pub preemptions: u64,
    /// Counter: steps applied.
    pub steps: u64,
    /// Counter: prompt tokens computed; cached ones are not, recomputed ones are counted again.
    pub prompt_tokens: u64,
    /// Counter: tokens sampled, of whatever became of their request.
    pub generated_tokens: u64,
}

/// How the time of one request that has ended was spent.
///
/// A request that was cancelled ended at the last `now` the scheduler was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// The request.
    pub id: RequestId,
    /// From its arrival to its first seat, or to its end if it never had one.
    pub queue: Duration,
    /// From its first seat to its first token.
    pub prefill: Option<Duration>,
    /// From its first token to its end.
    pub decode: Option<Duration>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, tokens found in the prefix cache at its first admission.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// How often it lost its seat for want of blocks.
    pub preemptions: u32,
}
