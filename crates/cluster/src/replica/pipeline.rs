//! The ranks of one epoch as their scheduler sees them: ports for plans, and how far each has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use playhouse_engine::STEPS_QUEUED_MAX;
use playhouse_layout::{RankId, RankMap};
use playhouse_telemetry::TraceSpan;
use playhouse_types::{StepId, StepPlan};

use super::step_trace::StepTrace;
use crate::rank::{RankHandle, RankPort, place};

/// A single stage has its next step planned ahead of the outcome only if its steps are shorter.
/// That hides some 0.2 ms of control between two steps, and lets whoever arrives meanwhile wait for
/// one step more.
const AHEAD_BELOW: Duration = Duration::from_millis(10);

/// Steps under way over the ranks of a replica.
#[derive(Debug)]
pub(crate) struct Pipeline {
    map: Arc<RankMap>,
    /// Steps in flight at most.
    depth: usize,
    /// Stage by stage.
    ranks: Vec<RankState>,
    /// Blocks of the smallest KV cache, as far as ranks have told theirs.
    kv_blocks: Option<u32>,
    /// Steps planned.
    planned: usize,
    /// Steps whose outcome is not here yet.
    in_flight: usize,
    /// When the oldest of them began, as far as is known here.
    began: Duration,
    /// How long the last one took.
    step_time: Duration,
    /// Those of traced requests that some rank has not run yet, oldest first.
    traced: VecDeque<StepTrace>,
}

#[derive(Debug, Default)]
struct RankState {
    port: Option<RankPort>,
    handle: Option<Arc<dyn RankHandle>>,
    ready: bool,
    /// Steps it has run.
    ran: usize,
}

/// A rank reports a step that it was not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rank} says that it ran {step}, and {next} is its next")]
pub(crate) struct UnplannedStep {
    rank: String,
    step: StepId,
    next: StepId,
}

// === impl Pipeline ===

impl Pipeline {
    /// One whose ranks are yet to come.
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

    /// A rank has started. It may have been ready before that is known here.
    pub(crate) fn connect(&mut self, rank: RankId, port: RankPort, handle: Arc<dyn RankHandle>) {
        let rank = self.rank_state(rank);
        (rank.port, rank.handle) = (Some(port), Some(handle));
    }

    /// A rank has told the size of its KV cache.
    pub(crate) fn holds(&mut self, kv_blocks: u32) {
        self.kv_blocks = Some(self.kv_blocks.map_or(kv_blocks, |least| least.min(kv_blocks)));
    }

    /// Blocks that every rank has, if any has told how many it has.
    pub(crate) fn kv_blocks(&self) -> Option<u32> {
        self.kv_blocks
    }

    /// A rank takes plans.
    pub(crate) fn ready(&mut self, rank: RankId) {
        self.rank_state(rank).ready = true;
    }

    /// A rank says that it has run a step: the next that it was given, or what it says is no use.
    ///
    /// # Errors
    /// What it was given instead.
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

    /// Whether the outcomes come from this rank.
    pub(crate) fn samples(&self, rank: RankId) -> bool {
        self.map.samples(rank.index)
    }

    /// Steps in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The step planned last has a span.
    pub(crate) fn trace(&mut self, step: TraceSpan) {
        if step.is_on() {
            self.traced.push_back(StepTrace::begin(step, self.planned, &self.map));
        }
    }

    /// Steps that every rank has run.
    pub(crate) fn done(&self) -> usize {
        self.ranks.iter().map(|rank| rank.ran).min().unwrap_or(0)
    }

    /// Ends the ranks that have run no more than [`done`](Self::done) steps: one of them hangs, and
    /// the others wait for it. Returns how many those are, and the first.
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

    /// The outcome of a step is here, and was one.
    pub(crate) fn settled(&mut self, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.step_time = now.saturating_sub(self.began);
        self.began = now;
    }

    /// All ranks take plans.
    pub(crate) fn serves(&self) -> bool {
        self.ranks.iter().all(|rank| rank.ready && rank.port.is_some())
    }

    /// Another step may begin: fewer than the depth are in flight, and the queue of the rank that
    /// is furthest behind has room. The one that samples may be ahead of it.
    pub(crate) fn has_room(&self) -> bool {
        let long = self.map.stages().len() == 1 && self.step_time >= AHEAD_BELOW;
        let depth = if long { 1 } else { self.depth };
        self.serves()
            && self.in_flight < depth
            && self.planned.saturating_sub(self.done()) < STEPS_QUEUED_MAX
    }

    /// Sends a plan to every rank. One that is gone has said so to its shard; until the restart
    /// that follows, no more plans are made.
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
