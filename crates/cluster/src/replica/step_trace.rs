//! Steps of traced requests, as spans: `step`, and in it `shard` for each rank.
//!
//! The head knows all that is known of a rank: the rank's span lasts from the moment at which the rank
//! is given the plan to the moment at which its report of the step is heard. So the span includes how
//! long the plan waited behind earlier ones, and the way there and back.
//!
//! - **ST-1** a step is traced when it computes a part of the prompt of a traced request. Another step
//!   of a traced request is traced no more often than every [`PACE`] of its replica: a span for each
//!   token would cost more than it tells.
//! - **ST-2** the span of a step is a part of the first traced request that asks for it, and links to
//!   the others.

use std::time::Duration;

use playhouse_telemetry::TraceSpan;
use playhouse_types::{Epoch, StepPlan};

use playhouse_layout::RankMap;

/// The shortest time between two traced steps that only generate.
pub(crate) const PACE: Duration = Duration::from_millis(100);

/// The trace of a step under way.
#[derive(Debug)]
pub(crate) struct StepTrace {
    /// The number of the epoch's steps that were planned up to this one.
    number: usize,
    span: TraceSpan,
    /// The spans of the ranks, stage by stage; none for ranks that have run the step.
    ranks: Vec<TraceSpan>,
}

// === impl StepTrace ===

impl StepTrace {
    /// Begins the trace of a step that was given to all ranks.
    pub(crate) fn begin(span: TraceSpan, number: usize, map: &RankMap) -> Self {
        let ranks = map.ranks().map(|at| {
            let rank = span.child("shard");
            rank.set("playhouse.stage", i64::from(at.stage));
            rank.set("playhouse.shard", i64::from(at.stage_rank));
            rank
        });
        Self { number, ranks: ranks.collect(), span }
    }

    /// Ends the span of a rank if it has run this step, `steps` being the number that it has run.
    pub(crate) fn ran(&mut self, rank: usize, steps: usize) {
        if steps >= self.number {
            self.ranks[rank] = TraceSpan::none();
        }
    }

    /// Returns whether all ranks have run the step.
    pub(crate) fn is_over(&self) -> bool {
        !self.ranks.iter().any(TraceSpan::is_on)
    }
}

impl Drop for StepTrace {
    fn drop(&mut self) {
        for rank in self.ranks.iter().filter(|rank| rank.is_on()) {
            rank.fail("lost");
            self.span.fail("lost");
        }
    }
}

/// Sets the attributes of a step's span: what the step computes.
pub(crate) fn describe(step: &TraceSpan, plan: &StepPlan, epoch: Epoch) {
    let tokens: i64 = plan.runs.iter().map(|run| i64::from(run.tokens)).sum();
    step.set("playhouse.step", plan.step.0 as i64);
    step.set("playhouse.epoch", epoch.0 as i64);
    step.set("playhouse.step.sequences", plan.runs.len() as i64);
    step.set("playhouse.step.tokens", tokens);
}
