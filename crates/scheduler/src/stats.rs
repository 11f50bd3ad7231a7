//! The statistics of a scheduler.

use std::time::Duration;

use playhouse_kvcache::PoolStats;
use playhouse_types::RequestId;

/// The most [`Timings`] kept between two calls of [`take_timings`](crate::Scheduler::take_timings).
pub const TIMINGS_MAX: usize = 4096;

/// The gauges and counters of a scheduler, in O(1). Counters grow from its creation on and outlive
/// restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: requests with a slot.
    pub running: usize,
    /// Gauge: requests in the queue.
    pub waiting: usize,
    /// Gauge: known tokens of the requests in the queue, that is, prompts and what requests emitted
    /// before they lost their slot.
    pub waiting_tokens: usize,
    /// Gauge: plans whose outcome has not been applied.
    pub in_flight: usize,
    /// The statistics of the KV blocks. Hits and queries count every admission, those after a preemption
    /// too.
    pub kv: PoolStats,
    /// Counter: slots taken away for want of blocks.
    pub preemptions: u64,
    /// Counter: steps applied.
    pub steps: u64,
    /// Counter: prompt tokens computed; cached ones are not, recomputed ones are counted again.
    pub prompt_tokens: u64,
    /// Counter: tokens sampled, whether or not their request finished.
    pub generated_tokens: u64,
}

/// The time that one request, which has ended, spent in each phase.
///
/// A request that was cancelled ended at the last `now` that the scheduler was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// The id of the request.
    pub id: RequestId,
    /// The time from the arrival to the first slot, or to the end of a request that never had a slot.
    pub queue: Duration,
    /// The time from the first slot to the first token.
    pub prefill: Option<Duration>,
    /// The time from the first token to the end.
    pub decode: Option<Duration>,
    /// The number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// The number of those tokens that the first admission found in the prefix cache.
    pub cached_tokens: usize,
    /// The number of tokens generated.
    pub generated_tokens: usize,
    /// How often the request lost its slot for want of blocks.
    pub preemptions: u32,
}
