//! The ranks of one epoch as their scheduler sees them: ports for plans, and how far each has come.

use playhouse_engine::STEPS_QUEUED_MAX;
use playhouse_types::StepPlan;

use crate::rank::{Layout, Rank, RankPort};

/// Steps under way over the ranks of a replica.
#[derive(Debug)]
pub(crate) struct Pipeline {
    layout: Layout,
    /// Steps in flight at most.
    depth: usize,
    /// Stage by stage.
    ranks: Vec<Seat>,
    /// Steps planned.
    planned: usize,
    /// Steps whose outcome is not here yet.
    in_flight: usize,
}

#[derive(Debug, Default)]
struct Seat {
    port: Option<RankPort>,
    ready: bool,
    /// Steps it has run.
    ran: usize,
}

// === impl Pipeline ===

impl Pipeline {
    /// One whose ranks are yet to come.
    pub(crate) fn new(layout: Layout, depth: usize) -> Self {
        let ranks = (0..layout.ranks()).map(|_| Seat::default()).collect();
        Self { layout, depth, ranks, planned: 0, in_flight: 0 }
    }

    fn seat(&mut self, rank: Rank) -> &mut Seat {
        &mut self.ranks[rank.stage * self.layout.tensor + rank.tensor]
    }

    /// A rank has started. It may have been ready before that is known here.
    pub(crate) fn connect(&mut self, rank: Rank, port: RankPort) {
        self.seat(rank).port = Some(port);
    }

    /// A rank takes plans.
    pub(crate) fn ready(&mut self, rank: Rank) {
        self.seat(rank).ready = true;
    }

    /// A rank has run a step.
    pub(crate) fn ran(&mut self, rank: Rank) {
        self.seat(rank).ran += 1;
    }

    /// The outcome of a step is here.
    pub(crate) fn settled(&mut self) {
        self.in_flight -= 1;
    }

    /// All ranks take plans.
    pub(crate) fn serves(&self) -> bool {
        self.ranks.iter().all(|seat| seat.ready && seat.port.is_some())
    }

    /// Another step may begin: fewer than `depth` are in flight, and the queue of the
    /// rank that is furthest behind has room. The one that samples may be ahead of it.
    pub(crate) fn has_room(&self) -> bool {
        let least = self.ranks.iter().map(|seat| seat.ran).min().unwrap_or(0);
        self.serves() && self.in_flight < self.depth && self.planned - least < STEPS_QUEUED_MAX
    }

    /// Sends a plan to every rank. One that is gone has said so to its shard; until the restart
    /// that follows, no more plans are made.
    pub(crate) fn submit(&mut self, plan: StepPlan) {
        self.planned += 1;
        self.in_flight += 1;
        let Some((last, others)) = self.ranks.split_last_mut() else { return };
        for seat in others {
            seat.submit(plan.clone());
        }
        last.submit(plan);
    }
}

// === impl Seat ===

impl Seat {
    fn submit(&mut self, plan: StepPlan) {
        let taken = self.port.as_ref().is_some_and(|port| port.submit(plan).is_ok());
        self.ready &= taken;
    }
}
