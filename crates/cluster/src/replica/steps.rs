//! The steps of a replica: planned, sent to its ranks, and settled.

use std::time::Duration;

use playhouse_layout::RankId;
use playhouse_telemetry::TraceSpan;
use playhouse_types::{Appended, StepId, StepOutcome, StepPlan};
use ractor::ActorRef;

use super::State;
use super::leaving::Duty;
use super::step_trace::{self, PACE};
use crate::mail::ReplicaMsg;
use crate::rank::RankEvent;
use crate::status::ShardState;
use crate::watchdog::TICK;

// === impl State ===

impl State {
    pub(super) fn reported(&mut self, me: &ActorRef<ReplicaMsg>, rank: RankId, event: RankEvent) {
        match event {
            RankEvent::Waits(why) => {
                // RB-4: that is neither loading nor serving.
                self.restarts.waits(self.now());
                self.report.waits_for(Some(why));
            }
            RankEvent::Placed(whereabouts) => {
                self.restarts.starts(self.now());
                self.report.waits_for(None);
                self.report.shard(rank, |shard| shard.whereabouts = Some(whereabouts));
            }
            RankEvent::Loading { bytes, of } => {
                self.report.shard(rank, |shard| shard.state = ShardState::Loading { bytes, of });
            }
            RankEvent::Cache { kv_blocks } => self.pipeline.holds(kv_blocks),
            RankEvent::Ready => {
                self.report.shard(rank, |shard| shard.state = ShardState::Ready);
                self.pipeline.ready(rank);
                self.announce();
            }
            RankEvent::Step(outcome) => {
                if let Err(why) =
                    self.ran(rank, outcome.step).and_then(|()| self.settle(rank, outcome))
                {
                    self.broken(me, rank, &why);
                }
            }
            // It matters only because it makes room for another step: see `followed`.
            RankEvent::Followed(_) => {}
            // The shard of the rank has failed, and the news of that is on the way; see `blame`.
            RankEvent::Lost(_) => {}
        }
    }

    /// Records that a rank without outcomes has run a step. Returns whether that makes room for another
    /// step.
    pub(super) fn followed(
        &mut self,
        me: &ActorRef<ReplicaMsg>,
        rank: RankId,
        step: StepId,
    ) -> bool {
        let had_room = self.pipeline.has_room();
        if let Err(why) = self.ran(rank, step) {
            self.broken(me, rank, &why);
            return true;
        }
        !had_room && self.pipeline.has_room()
    }

    pub(super) fn ran(&mut self, rank: RankId, step: StepId) -> Result<(), String> {
        self.pipeline.ran(rank, step).map_err(|why| why.to_string())?;
        let (id, now) = (self.id, self.now());
        let Self { watchdog, pipeline, slowness, replicas, .. } = self;
        watchdog.ran(pipeline.done(), now, |work, took| {
            let paces = replicas.paces();
            paces.measured(id, work, took);
            slowness.measured(took, paces.expected(id, work), now);
        });
        Ok(())
    }

    /// Takes in the outcome of a step, and gives the ranks the next steps before anything else.
    ///
    /// # Errors
    /// How the outcome breaks the contract of plans and outcomes; nothing has changed then.
    pub(super) fn settle(&mut self, rank: RankId, outcome: StepOutcome) -> Result<(), String> {
        let now = self.now();
        if !self.pipeline.samples(rank) || outcome.epoch != self.epoch {
            return Err(format!(
                "an outcome of {} came, which nobody expects there",
                outcome.epoch
            ));
        }
        let emissions = self.scheduler.apply(outcome, now).map_err(|why| why.to_string())?;
        self.pipeline.settled(now);
        // A drain looks first whether this was the last step.
        if self.duty == Duty::Serve {
            self.plan_steps();
        }
        // A caller that sees its request end finds the request's blocks free in the metrics.
        self.tell();
        for emission in emissions {
            self.deliver(emission);
        }
        Ok(())
    }

    /// Plans as many steps as may be under way. Returns whether there was any.
    pub(super) fn plan_steps(&mut self) -> bool {
        let before = self.pipeline.in_flight();
        while self.pipeline.has_room() {
            let now = self.now();
            let Some(plan) = self.scheduler.plan_step(now) else { break };
            self.report.planned(&plan);
            self.watchdog.began(&plan, now);
            let span = self.trace(&plan, now);
            self.pipeline.submit(plan, now);
            self.pipeline.trace(span);
        }
        self.pipeline.in_flight() > before
    }

    /// Reports what has changed, and ends requests that have expired.
    pub(super) fn tell(&mut self) {
        self.report.update(self.epoch, &mut self.scheduler);
        for expired in self.scheduler.take_expired() {
            self.deliver(expired);
        }
    }

    /// Returns the span of a step, if the step is to have one (**ST-1**, **ST-2**).
    pub(super) fn trace(&mut self, plan: &StepPlan, now: Duration) -> TraceSpan {
        let mut step = TraceSpan::none();
        if !self.sinks.is_traced() {
            return step;
        }
        for admitted in &plan.admitted {
            let id = self.scheduler.request_in(admitted.slot);
            if let Some(journey) = id.and_then(|id| self.sinks.journey(id)) {
                journey.admitted();
            }
        }
        let due = now >= self.traced + PACE;
        for others in [false, true] {
            for run in &plan.runs {
                let id = self.scheduler.request_in(run.slot);
                let Some(journey) = id.and_then(|id| self.sinks.journey(id)) else { continue };
                // A run behind the prompt may be planned before the first token is delivered, or even sampled:
                // the request is still in its prefill then.
                let of_prompt = run.appended == Appended::Nothing;
                let of_decode = due && !journey.prefills();
                if others {
                    step.link(journey.span());
                } else if !step.is_on() && (of_prompt || of_decode) {
                    step = journey.span().child("step");
                }
            }
        }
        if step.is_on() {
            step_trace::describe(&step, plan, self.epoch);
            self.traced = now;
        }
        step
    }

    /// Counts the time that has passed for the stages.
    pub(super) fn count_stages(&mut self) {
        let stats = self.scheduler.stats();
        let counts = self.pipeline.serves() && stats.running + stats.waiting > 0;
        let in_flight = counts.then_some(self.pipeline.in_flight());
        let time = self.bubble.advance(in_flight, self.now());
        self.report.stages(time);
    }

    /// Arranges that the replica looks at the steps under way.
    pub(super) fn watch(&mut self, me: &ActorRef<ReplicaMsg>) {
        if self.watchdog.is_on() && !self.watched {
            self.watched = true;
            me.send_after(TICK, || ReplicaMsg::Watch);
        }
        self.report.patience(self.watchdog.patience());
    }
}
