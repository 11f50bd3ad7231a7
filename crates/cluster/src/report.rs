//! Turns what a scheduler counts into metrics.

use std::sync::Arc;
use std::time::Duration;

use playhouse_scheduler::{Limits, Scheduler, Stats, Timings};
use playhouse_telemetry::{BlockLabels, Metrics};
use playhouse_types::{BLOCK_TOKENS, StepPlan};

/// Remembers what was reported, because the scheduler's counters are totals.
pub(crate) struct Report {
    metrics: Arc<Metrics>,
    last: Stats,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(metrics: Arc<Metrics>, limits: &Limits) -> Self {
        let labels =
            BlockLabels { block_size: BLOCK_TOKENS as u32, num_gpu_blocks: limits.kv_blocks };
        metrics.cache_config.get_or_create(&labels).set(1);
        metrics.kv_blocks.set(limits.kv_blocks.into());
        Self { metrics, last: Stats::default() }
    }

    pub(crate) fn planned(&self, plan: &StepPlan) {
        let tokens: u32 = plan.runs.iter().map(|run| run.tokens).sum();
        self.metrics.iteration_tokens.observe(tokens.into());
    }

    pub(crate) fn restarted(&self) {
        self.metrics.replica_restarts.inc();
    }

    /// Brings gauges and counters up to date.
    pub(crate) fn update(&mut self, scheduler: &mut Scheduler) {
        let (metrics, stats) = (&*self.metrics, scheduler.stats());
        metrics.requests_running.set(stats.running as i64);
        metrics.requests_waiting.set(stats.waiting as i64);
        metrics.kv_blocks_held.set(stats.kv.held as i64);
        metrics.kv_cache_usage.set(stats.kv.held as f64 / stats.kv.total as f64);
        let last = &self.last;
        metrics.preemptions.inc_by(stats.preemptions - last.preemptions);
        let queried = stats.kv.queried_tokens - last.kv.queried_tokens;
        metrics.prefix_cache_queries.inc_by(queried);
        metrics.prefix_cache_hits.inc_by(stats.kv.hit_tokens - last.kv.hit_tokens);
        self.last = stats;
        for timings in scheduler.take_timings() {
            self.ended(&timings);
        }
    }

    fn ended(&self, timings: &Timings) {
        let metrics = &*self.metrics;
        metrics.queue_time.observe(timings.queue.as_secs_f64());
        if let Some(prefill) = timings.prefill {
            let decode = timings.decode.unwrap_or(Duration::ZERO);
            metrics.prefill_time.observe(prefill.as_secs_f64());
            metrics.decode_time.observe(decode.as_secs_f64());
            metrics.inference_time.observe((prefill + decode).as_secs_f64());
        }
    }
}
