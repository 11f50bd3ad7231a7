//! Turns what a scheduler counts into metrics, the status of its replica and what the router
//! knows of it.

use std::time::Duration;

use playhouse_scheduler::{Limits, Scheduler, Stats, Timings};
use playhouse_telemetry::ReplicaMetrics;
use playhouse_types::{BLOCK_TOKENS, Epoch, StepPlan};
use tokio::sync::watch;

use crate::rank::Rank;
use crate::routing::Teller;
use crate::status::{ReplicaState, ReplicaStatus, ShardState, ShardStatus};

/// Where a replica shows how it is.
pub(crate) type Board = watch::Sender<ReplicaStatus>;

/// Remembers what was reported, because the scheduler's counters are totals.
pub(crate) struct Report {
    metrics: ReplicaMetrics,
    board: Board,
    teller: Teller,
    last: Stats,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(
        metrics: ReplicaMetrics,
        board: Board,
        teller: Teller,
        limits: &Limits,
    ) -> Self {
        metrics.has_blocks(BLOCK_TOKENS as u32, limits.kv_blocks);
        Self { metrics, board, teller, last: Stats::default() }
    }

    pub(crate) fn planned(&self, plan: &StepPlan) {
        let tokens: u32 = plan.runs.iter().map(|run| run.tokens).sum();
        self.metrics.iteration_tokens.observe(tokens.into());
    }

    /// A request was taken in.
    pub(crate) fn accepted(&mut self) {
        self.teller.accepted();
    }

    pub(crate) fn state(&self, state: ReplicaState) {
        self.board.send_modify(|status| status.state = state);
    }

    pub(crate) fn restarted(&self, epoch: Epoch, reason: &str) {
        self.metrics.replica_restarts.inc();
        self.board.send_modify(|status| {
            status.epoch = epoch;
            status.state = ReplicaState::Restarting { reason: reason.to_owned() };
        });
    }

    pub(crate) fn shard(&self, rank: Rank, change: impl FnOnce(&mut ShardStatus)) {
        self.board.send_modify(|status| change(&mut status.stages[rank.stage].shards[rank.tensor]));
    }

    /// No rank of the epoch is left.
    pub(crate) fn ranks_lost(&self) {
        self.board.send_modify(|status| {
            for shard in status.stages.iter_mut().flat_map(|stage| &mut stage.shards) {
                shard.state = ShardState::Lost;
                shard.whereabouts = None;
            }
        });
    }

    /// Brings gauges, counters and the router up to date.
    pub(crate) fn update(&mut self, epoch: Epoch, scheduler: &mut Scheduler) {
        let (metrics, stats) = (&self.metrics, scheduler.stats());
        metrics.requests_running.set(stats.running as i64);
        metrics.requests_waiting.set(stats.waiting as i64);
        metrics.kv_blocks_held.set(stats.kv.held as i64);
        metrics.kv_cache_usage.set(stats.kv.held as f64 / stats.kv.total as f64);
        let last = &self.last;
        metrics.preemptions.inc_by(stats.preemptions - last.preemptions);
        let queried = stats.kv.queried_tokens - last.kv.queried_tokens;
        metrics.prefix_cache_queries.inc_by(queried);
        metrics.prefix_cache_hits.inc_by(stats.kv.hit_tokens - last.kv.hit_tokens);
        self.board.send_modify(|status| show(&stats, status));
        self.teller.tell(epoch, scheduler, &stats);
        self.last = stats;
        for timings in scheduler.take_timings() {
            self.ended(&timings);
        }
    }

    fn ended(&self, timings: &Timings) {
        let metrics = &self.metrics;
        metrics.queue_time.observe(timings.queue.as_secs_f64());
        if let Some(prefill) = timings.prefill {
            let decode = timings.decode.unwrap_or(Duration::ZERO);
            metrics.prefill_time.observe(prefill.as_secs_f64());
            metrics.decode_time.observe(decode.as_secs_f64());
            metrics.inference_time.observe((prefill + decode).as_secs_f64());
        }
    }
}

fn show(stats: &Stats, status: &mut ReplicaStatus) {
    status.running = stats.running;
    status.waiting = stats.waiting;
    status.kv_blocks_held = stats.kv.held;
    status.kv_blocks = stats.kv.total;
    status.prefix_queried_tokens = stats.kv.queried_tokens;
    status.prefix_hit_tokens = stats.kv.hit_tokens;
    status.prefill_tokens = stats.prompt_tokens;
    status.generated_tokens = stats.generated_tokens;
}
