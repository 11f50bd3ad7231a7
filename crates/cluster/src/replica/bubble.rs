//! The bubble of a pipeline: the part of its stages' time that is not used.
//!
//! A stage computes one step at a time. So while a replica of `S` stages serves, has requests and has `k
//! < S` steps in flight, `S - k` stages have nothing to do, whichever they are. The bubble is the part
//! of the time of all stages that passes like that. With one stage the bubble is the time that the head
//! takes between two steps.
//!
//! Pure: time is an argument. Idle time that the head cannot see, such as that of a stage that waits for
//! another within a step, is not counted.

use std::time::Duration;

/// The bubble of one replica, counted over time.
#[derive(Debug)]
pub(crate) struct Bubble {
    stages: usize,
    since: Duration,
    /// The number of steps in flight since `since`; `None` while the replica has no requests or does not
    /// serve.
    in_flight: Option<usize>,
}

/// The time of stages, added up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StageTime {
    /// The time in which there were requests.
    pub(crate) whole: Duration,
    /// The part of that time without a step.
    pub(crate) idle: Duration,
}

// === impl Bubble ===

impl Bubble {
    pub(crate) fn new(stages: usize) -> Self {
        Self { stages, since: Duration::ZERO, in_flight: None }
    }

    /// Sets the number of steps in flight; `None` stops the count. Returns the time of stages until now.
    pub(crate) fn advance(&mut self, in_flight: Option<usize>, now: Duration) -> StageTime {
        let passed = now.saturating_sub(self.since);
        self.since = now;
        let of = |stages: usize| passed * u32::try_from(stages).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut self.in_flight, in_flight);
        before.map_or(StageTime::default(), |steps| StageTime {
            whole: of(self.stages),
            idle: of(self.stages.saturating_sub(steps)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn stages_without_a_step_are_idle_while_there_are_requests() {
        let mut bubble = Bubble::new(4);
        let nothing = StageTime::default();
        assert_eq!(bubble.advance(Some(1), seconds(10)), nothing, "nobody was there before");
        let one = StageTime { whole: seconds(8), idle: seconds(6) };
        assert_eq!(bubble.advance(Some(5), seconds(12)), one, "one step, four stages, two seconds");
        let full = StageTime { whole: seconds(4), idle: seconds(0) };
        assert_eq!(bubble.advance(None, seconds(13)), full, "five steps fill four stages");
        assert_eq!(bubble.advance(Some(0), seconds(99)), nothing, "it did not count");
        let idle = StageTime { whole: seconds(4), idle: seconds(4) };
        assert_eq!(bubble.advance(None, seconds(100)), idle);
    }
}
