//! The report of a replica: turns the scheduler's counts into metrics, the status of the replica and the
//! router's knowledge of it.

use std::time::Duration;

use playhouse_layout::RankId;
use playhouse_scheduler::{Limits, Scheduler, Stats, Timings};
use playhouse_telemetry::{Cause, ReplicaMetrics};
use playhouse_types::{Epoch, StepPlan};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bubble::StageTime;
use crate::load_reporter::LoadReporter;
use crate::progress::Patience;
use crate::rank::LossCause;
use crate::status::{ReplicaState, ReplicaStatus, ShardState, ShardStatus};

/// The channel on which a replica publishes its status.
pub(crate) type Board = watch::Sender<ReplicaStatus>;

/// The report, with the counts that were reported last, because the scheduler's counters are totals.
pub(crate) struct Report {
    metrics: ReplicaMetrics,
    board: Board,
    load_reporter: LoadReporter,
    block_tokens: u32,
    last: Stats,
    /// Since when ranks are lost.
    lost: Option<Instant>,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(
        metrics: ReplicaMetrics,
        board: Board,
        load_reporter: LoadReporter,
        limits: &Limits,
    ) -> Self {
        let block_tokens = limits.block_size.get().get();
        metrics.has_blocks(block_tokens, limits.kv_blocks);
        metrics.epoch.set(board.borrow().epoch.0 as i64);
        Self { metrics, board, load_reporter, block_tokens, last: Stats::default(), lost: None }
    }

    /// Reports the number of KV blocks of this epoch.
    pub(crate) fn cache(&self, kv_blocks: u32) {
        self.metrics.has_blocks(self.block_tokens, kv_blocks);
    }

    pub(crate) fn planned(&self, plan: &StepPlan) {
        let tokens: u32 = plan.runs.iter().map(|run| run.tokens).sum();
        self.metrics.iteration_tokens.observe(tokens.into());
    }

    /// Reports that a request was taken in.
    pub(crate) fn accepted(&mut self) {
        self.load_reporter.accepted();
    }

    pub(crate) fn state(&self, state: ReplicaState) {
        // A reader who sees the state finds it in the metrics.
        self.metrics.healthy.set(i64::from(state == ReplicaState::Serving));
        self.board.send_modify(|status| status.state = state);
    }

    /// Reports that the replica serves, or serves again.
    pub(crate) fn serves(&mut self) {
        // The time that its ranks have for their work begins now.
        self.board.send_modify(|status| {
            status.progress.waits_since = status.progress.waits_since.map(|_| Instant::now());
        });
        self.state(ReplicaState::Serving);
        if let Some(lost) = self.lost.take() {
            self.metrics.recovery_time.observe(lost.elapsed().as_secs_f64());
        }
    }

    /// Reports that ranks hung and were ended, `silence` after they were heard of last.
    pub(crate) fn hung(&self, silence: Duration) {
        self.metrics.hang_detection_time.observe(silence.as_secs_f64());
    }

    /// Reports the time of stages that has passed.
    pub(crate) fn stages(&self, time: StageTime) {
        self.metrics.pipeline_time.inc_by(time.whole.as_secs_f64());
        self.metrics.pipeline_idle_time.inc_by(time.idle.as_secs_f64());
    }

    /// Reports that a request went on in another replica.
    pub(crate) fn migrated(&self, cause: LossCause) {
        self.metrics.migrations.inc(cause.into());
    }

    /// Reports how many times slower than its peers the replica is, if it is an outlier.
    pub(crate) fn slower_than_peers(&self, times: Option<u32>) {
        self.metrics.outlier.set(i64::from(times.is_some()));
        self.board.send_modify(|status| status.progress.slower_than_peers = times);
    }

    /// Reports how long the replica may be without a result.
    pub(crate) fn patience(&self, patience: Patience) {
        self.board.send_if_modified(|status| {
            let old = std::mem::replace(&mut status.progress.patience, patience);
            old != patience
        });
        self.metrics.healthy.set(i64::from(self.board.borrow().is_healthy()));
    }

    pub(crate) fn restarted(&self, epoch: Epoch, cause: LossCause, reason: &str) {
        self.metrics.replica_restarts.inc(cause.into());
        self.metrics.epoch.set(epoch.0 as i64);
        self.board.send_modify(|status| status.epoch = epoch);
        self.state(ReplicaState::Restarting { reason: reason.to_owned() });
    }

    /// Reports that the replica starts anew after a drain or a failure.
    pub(crate) fn revived(&self, epoch: Epoch) {
        self.board.send_modify(|status| {
            status.epoch = epoch;
            status.state = ReplicaState::Starting;
            for shard in status.stages.iter_mut().flat_map(|stage| &mut stage.shards) {
                shard.state = ShardState::Starting;
            }
        });
    }

    pub(crate) fn shard(&self, rank: RankId, change: impl FnOnce(&mut ShardStatus)) {
        self.board.send_modify(|status| {
            let mut shards = status.stages.iter_mut().flat_map(|stage| &mut stage.shards);
            if let Some(shard) = shards.nth(rank.at()) {
                change(shard);
            }
        });
    }

    /// Reports what the ranks wait for before they can start, if they do.
    pub(crate) fn waits_for(&self, what: Option<String>) {
        self.board.send_if_modified(|status| {
            let old = std::mem::replace(&mut status.waits_for, what);
            old != status.waits_for
        });
    }

    /// Reports that the epoch has lost its ranks, and that the time until the replica serves again counts.
    pub(crate) fn ranks_lost(&mut self) {
        self.lost.get_or_insert_with(Instant::now);
        self.no_ranks(ShardState::Lost);
    }

    /// Reports that the ranks end as they were told to.
    pub(crate) fn ranks_ended(&mut self) {
        self.lost = None;
        self.no_ranks(ShardState::Ended);
    }

    fn no_ranks(&self, state: ShardState) {
        self.board.send_modify(|status| {
            status.waits_for = None;
            for shard in status.stages.iter_mut().flat_map(|stage| &mut stage.shards) {
                shard.state = state;
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
        let moved = stats.steps != last.steps;
        self.board.send_modify(|status| show(&stats, moved, status));
        self.load_reporter.tell(epoch, scheduler, &stats);
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

fn show(stats: &Stats, moved: bool, status: &mut ReplicaStatus) {
    let waits = &mut status.progress.waits_since;
    match stats.running + stats.waiting {
        0 => *waits = None,
        _ if moved => *waits = Some(Instant::now()),
        _ => drop(waits.get_or_insert_with(Instant::now)),
    }
    status.running = stats.running;
    status.waiting = stats.waiting;
    status.kv_blocks_held = stats.kv.held;
    status.kv_blocks = stats.kv.total;
    status.prefix_queried_tokens = stats.kv.queried_tokens;
    status.prefix_hit_tokens = stats.kv.hit_tokens;
    status.prefill_tokens = stats.prompt_tokens;
    status.generated_tokens = stats.generated_tokens;
}

impl From<LossCause> for Cause {
    fn from(cause: LossCause) -> Self {
        match cause {
            LossCause::Step => Self::crash,
            LossCause::Hang => Self::hang,
            LossCause::Outside => Self::lost,
            LossCause::NoDevice => Self::no_device,
            LossCause::Drain => Self::drain,
            LossCause::Slow => Self::slow,
        }
    }
}
