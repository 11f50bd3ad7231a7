//! The pipeline: the ranks of one epoch as their scheduler sees them, with ports for plans and their
//! progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use playhouse_engine::STEPS_QUEUED_MAX;
use playhouse_layout::{RankId, RankMap};
use playhouse_telemetry::TraceSpan;
use playhouse_types::{StepId, StepPlan};

use super::step_trace::StepTrace;
use crate::rank::{RankHandle, RankPort, place};

/// A single stage has its next step planned ahead of the outcome only if its steps are shorter than
/// this. That hides some 0.2 ms of control between two steps, and lets a request that arrives meanwhile
/// wait for one step more.
const AHEAD_BELOW: Duration = Duration::from_millis(10);

/// The ranks of a replica, with the steps under way over them.
#[derive(Debug)]
pub(crate) struct Pipeline {
    map: Arc<RankMap>,
    /// The maximum number of steps in flight.
    depth: usize,
    /// The ranks, stage by stage.
    ranks: Vec<RankState>,
    /// The blocks of the smallest KV cache, as far as ranks have told theirs.
    kv_blocks: Option<u32>,
    /// The number of steps planned.
    planned: usize,
    /// The number of steps without an outcome yet.
    in_flight: usize,
    /// When the oldest of those steps began, as far as is known here.
    began: Duration,
    /// How long the last one took.
    step_time: Duration,
    /// The steps of traced requests that some rank has not run yet, oldest first.
    traced: VecDeque<StepTrace>,
}

#[derive(Debug, Default)]
struct RankState {
    port: Option<RankPort>,
    handle: Option<Arc<dyn RankHandle>>,
    ready: bool,
    /// The number of steps that the rank has run.
    ran: usize,
}

/// The error of a rank that reports a step that it was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rank} says that it ran {step}, and {next} is its next")]
pub(crate) struct UnplannedStep {
    rank: String,
    step: StepId,
    next: StepId,
}

// === impl Pipeline ===

impl Pipeline {
    /// Creates a pipeline whose ranks are yet to come.
    pub(crate) fn new(map: Arc<RankMap>, depth: usize) -> Self {
        let ranks = (0..map.replica_ranks()).map(|_| RankState::default()).collect();
        let (began, step_time) = (Duration::ZERO, Duration::ZERO);
        let traced = VecDeque::new();
        let kv_blocks = None;
        Self { map, depth, ranks, kv_blocks, planned: 0, in_flight: 0, began, step_time, traced }
    }

    fn rank_state(&mut self, rank: RankId) -> &mut RankState {
        &mut self.ranks[rank.at()]
    }

    /// Connects a rank that has started. Its report that it is ready may have come before.
    pub(crate) fn connect(&mut self, rank: RankId, port: RankPort, handle: Arc<dyn RankHandle>) {
        let rank = self.rank_state(rank);
        (rank.port, rank.handle) = (Some(port), Some(handle));
    }

    /// Takes in the size of a rank's KV cache.
    pub(crate) fn holds(&mut self, kv_blocks: u32) {
        self.kv_blocks = Some(self.kv_blocks.map_or(kv_blocks, |least| least.min(kv_blocks)));
    }

    /// Returns the number of blocks that every rank has, if any has told its number.
    pub(crate) fn kv_blocks(&self) -> Option<u32> {
        self.kv_blocks
    }

    /// Records that a rank takes plans.
    pub(crate) fn ready(&mut self, rank: RankId) {
        self.rank_state(rank).ready = true;
    }

    /// Records that a rank has run a step, which must be the next that it was given.
    ///
    /// # Errors
    /// The step that was to be next.
    pub(crate) fn ran(&mut self, rank: RankId, step: StepId) -> Result<(), UnplannedStep> {
        let planned = self.planned;
        let rank_state = self.rank_state(rank);
        let next = rank_state.ran;
        if step != StepId(next as u64) || next >= planned {
            let rank = place(&self.map, rank.index);
            return Err(UnplannedStep { rank, step, next: StepId(next as u64) });
        }
        rank_state.ran += 1;
        let steps = rank_state.ran;
        self.traced.iter_mut().for_each(|step| step.ran(rank.at(), steps));
        while self.traced.pop_front_if(|step| step.is_over()).is_some() {}
        Ok(())
    }

    /// Returns whether this rank gives the outcomes.
    pub(crate) fn samples(&self, rank: RankId) -> bool {
        self.map.samples(rank.index)
    }

    /// Returns the number of steps in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Adds the span of the step that was planned last.
    pub(crate) fn trace(&mut self, step: TraceSpan) {
        if step.is_on() {
            self.traced.push_back(StepTrace::begin(step, self.planned, &self.map));
        }
    }

    /// Returns the number of steps that every rank has run.
    pub(crate) fn done(&self) -> usize {
        self.ranks.iter().map(|rank| rank.ran).min().unwrap_or(0)
    }

    /// Ends the ranks that have run no more than [`done`](Self::done) steps: one of them hangs, and the
    /// others wait for it. Returns how many there are, and the place of the first.
    pub(crate) fn abort_hung(&self) -> (usize, String) {
        let done = self.done();
        let hung = self.ranks.iter().enumerate().filter(|(_, rank)| rank.ran == done);
        let mut first = None;
        let count = hung.inspect(|(index, rank)| {
            first.get_or_insert(*index);
            if let Some(handle) = &rank.handle {
                handle.abort();
            }
        });
        let count = count.count();
        let first = first.and_then(|first| u32::try_from(first).ok()).unwrap_or(0);
        (count, place(&self.map, first))
    }

    /// Records that the outcome of a step in flight has come.
    pub(crate) fn settled(&mut self, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.step_time = now.saturating_sub(self.began);
        self.began = now;
    }

    /// Returns whether all ranks take plans.
    pub(crate) fn serves(&self) -> bool {
        self.ranks.iter().all(|rank| rank.ready && rank.port.is_some())
    }

    /// Returns whether another step may begin: fewer steps than the depth are in flight, and the queue
    /// of the rank that is furthest behind has room. The rank that samples may be ahead of it.
    pub(crate) fn has_room(&self) -> bool {
        let long = self.map.stages().len() == 1 && self.step_time >= AHEAD_BELOW;
        let depth = if long { 1 } else { self.depth };
        self.serves()
            && self.in_flight < depth
            && self.planned.saturating_sub(self.done()) < STEPS_QUEUED_MAX
    }

    /// Sends a plan to every rank. A rank that is gone has said so to its shard; until the restart that
    /// follows, no more plans are made.
    pub(crate) fn submit(&mut self, plan: StepPlan, now: Duration) {
        if self.in_flight == 0 {
            self.began = now;
        }
        self.planned += 1;
        self.in_flight += 1;
        let Some((last, others)) = self.ranks.split_last_mut() else { return };
        for rank in others {
            rank.submit(plan.clone());
        }
        last.submit(plan);
    }
}

// === impl RankState ===

impl RankState {
    fn submit(&mut self, plan: StepPlan) {
        let taken = self.port.as_ref().is_some_and(|port| port.submit(plan).is_ok());
        self.ready &= taken;
    }
}
