//! Steps of traced requests, as spans: `step`, and in it `shard` for each rank.
//!
//! All that is known of a rank is known by the head: its span lasts from the moment at which it is
//! handed the plan to the moment at which its word that it has run it is heard. So it has in it how long
//! the plan waited behind earlier ones, and the way there and back.
//!
//! - **ST-1** a step is traced when it computes something of the prompt of a traced request, and
//!   otherwise, if it runs one, no more often than every [`PACE`] of its replica: a span for each token
//!   would cost more than it tells.
//! - **ST-2** the span of a step is a part of the first traced request that asks for it, and links to
//!   the others.

use std::time::Duration;

use playhouse_telemetry::TraceSpan;
use playhouse_types::{Epoch, StepPlan};

use playhouse_layout::RankMap;

/// Between two traced steps that only generate.
pub(crate) const PACE: Duration = Duration::from_millis(100);

/// A step under way.
#[derive(Debug)]
pub(crate) struct StepTrace {
    /// How many of its epoch were planned with it.
    number: usize,
    span: TraceSpan,
    /// Stage by stage; nothing for those that have run it.
    ranks: Vec<TraceSpan>,
}

// === impl StepTrace ===

impl StepTrace {
    /// It was given to all ranks.
    pub(crate) fn begin(span: TraceSpan, number: usize, map: &RankMap) -> Self {
        let ranks = map.ranks().map(|at| {
            let rank = span.child("shard");
            rank.set("playhouse.stage", i64::from(at.stage));
            rank.set("playhouse.shard", i64::from(at.stage_rank));
            rank
        });
        Self { number, ranks: ranks.collect(), span }
    }

    /// A rank has run so many steps of the epoch.
    pub(crate) fn ran(&mut self, rank: usize, steps: usize) {
        if steps >= self.number {
            self.ranks[rank] = TraceSpan::none();
        }
    }

    /// All ranks have run it.
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

/// Says in its span what a step computes.
pub(crate) fn describe(step: &TraceSpan, plan: &StepPlan, epoch: Epoch) {
    let tokens: i64 = plan.runs.iter().map(|run| i64::from(run.tokens)).sum();
    step.set("playhouse.step", plan.step.0 as i64);
    step.set("playhouse.epoch", epoch.0 as i64);
    step.set("playhouse.step.sequences", plan.runs.len() as i64);
    step.set("playhouse.step.tokens", tokens);
}
