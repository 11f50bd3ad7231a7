//! The watchdog, which detects steps that do not end.
//!
//! A rank whose process stops answering is lost by its link. A rank whose engine hangs while the link
//! answers is seen only because its step has no outcome; so each step has a time limit of its own, which
//! follows from how long such steps took before.
//!
//! - **W-1** a step is overdue when not every rank has run it and nothing was heard of any step for its
//!   time limit: 20 times what such a step takes, at least 2.5 s. So a hang is seen in under 3 s where
//!   steps take less than 125 ms (**G3**).
//! - **W-2** a long step is not overdue because short ones were quick: what was measured is scaled
//!   up to more tokens and longer contexts, and never down.
//! - **W-3** before anything was measured, and however long steps take, the limit is 15 minutes.
//! - **W-4** while this process does not run itself, no time is counted.
//! - **W-5** long before that, a replica of which nothing was heard for five times what its step takes,
//!   at least 100 ms, hesitates: new requests go to others, if others do not hesitate.
//!
//! Pure: time is an argument, on any clock that does not go back. Not here: what is done about a hang
//! (see `replica`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use playhouse_types::StepPlan;

use crate::progress::Patience;

/// How often the replica should [look](Watchdog::look) while steps are under way.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// The most time between two looks that counts; the rest is the fault of this process, not of ranks
/// (**W-4**).
const TICK_MAX: Duration = Duration::from_millis(500);

/// The time limit of a step, as a multiple of what such steps took. Other processes may slow a machine
/// down by much, and a false alarm costs a restart.
const FACTOR: f64 = 20.0;

/// The shortest time limit of a step. With [`TICK`] it leaves a quarter of a second of the 3 s (**G3**).
const FLOOR: Duration = Duration::from_millis(2_500);

/// The longest time limit of a step.
const CEILING: Duration = Duration::from_secs(900);

/// How much of the longest time of a size is remembered with each step of that size.
const REMEMBERED: f64 = 0.9;

/// The cost of a token, in positions of its context, at least: its way through the matrices of a layer,
/// against one dot product and one addition for a position.
const LINEAR: u64 = 64;

/// A replica that has work, and of which nothing was heard for this long, is stalled ...
const STALL: Duration = Duration::from_secs(10);
/// ... unless this part of its step's time limit is longer: five times what the step should take.
const STALL_PART: u32 = 4;

/// A replica hesitates when nothing was heard of it for this many times what its step takes ...
const HESITATION: f64 = 5.0;
/// ... and for at least this long: where ranks share cores, each of them waits now and then.
const HESITATION_MIN: Duration = Duration::from_millis(100);

/// How long a step may take before its ranks count as hung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepDeadline {
    /// A multiple of what such steps took lately: see `docs/cluster.md`.
    #[default]
    Measured,
    /// The given time, whatever the step computes.
    Fixed(Duration),
    /// No limit.
    Never,
}

/// The steps of a replica that are under way, and how long steps take.
#[derive(Debug)]
pub(crate) struct Watchdog {
    deadline: StepDeadline,
    paces: Paces,
    /// The steps that some rank has not run yet, oldest first.
    under_way: VecDeque<Step>,
    /// The number of steps of the epoch that all ranks have run.
    done: usize,
    /// When the replica looked last, or something was heard.
    looked: Duration,
    /// How long nothing was heard, counting only time in which this process ran.
    silence: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    work: Work,
    began: Duration,
}

/// A step that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// The tokens that the step feeds.
    pub(crate) tokens: u64,
    /// How long nothing was heard.
    pub(crate) silence: Duration,
}

/// The work of a step. A step takes a time `a·tokens + b·pairs + c` with no negative factor, so the time
/// that another step took, times the greater of the two ratios, is never too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    tokens: u64,
    /// The tokens times the positions that they attend to, plus [`LINEAR`] for each token.
    pairs: u64,
}

/// The longest times that steps of about the same work took, by the binary logarithms of that work.
#[derive(Debug, Default)]
pub(crate) struct Paces(BTreeMap<(u32, u32), f64>);

// === impl Watchdog ===

impl Watchdog {
    pub(crate) fn new(deadline: StepDeadline) -> Self {
        let (looked, silence) = (Duration::ZERO, Duration::ZERO);
        let (paces, under_way) = (Paces::default(), VecDeque::new());
        Self { deadline, paces, under_way, done: 0, looked, silence }
    }

    /// Returns whether steps are under way, so that the replica should [look](Self::look).
    pub(crate) fn is_on(&self) -> bool {
        !self.under_way.is_empty() && self.deadline != StepDeadline::Never
    }

    /// Records that a step begins.
    pub(crate) fn began(&mut self, plan: &StepPlan, now: Duration) {
        if self.under_way.is_empty() {
            self.heard(now);
        }
        self.under_way.push_back(Step { work: Work::of(plan), began: now });
    }

    /// Records that every rank has run this many steps of the epoch. `measured` is told what each of the
    /// last ones computed and how long it took.
    pub(crate) fn ran(
        &mut self,
        steps: usize,
        now: Duration,
        mut measured: impl FnMut(Work, Duration),
    ) {
        while self.done < steps {
            self.done += 1;
            self.heard(now);
            if let Some(step) = self.under_way.pop_front() {
                let took = now.saturating_sub(step.began);
                self.paces.measured(step.work, took);
                measured(step.work, took);
            }
        }
    }

    /// Returns the oldest step that some rank has not run yet, and how long it has taken.
    pub(crate) fn oldest(&self, now: Duration) -> Option<(Work, Duration)> {
        self.under_way.front().map(|step| (step.work, now.saturating_sub(step.began)))
    }

    /// Forgets the steps under way, which are lost with their ranks. Measured times stay.
    pub(crate) fn restart(&mut self) {
        self.under_way.clear();
        self.done = 0;
    }

    /// Returns the oldest step, if it is overdue (**W-1**).
    pub(crate) fn look(&mut self, now: Duration) -> Option<Overdue> {
        self.silence += now.saturating_sub(self.looked).min(TICK_MAX);
        self.looked = now;
        let time = self.time()?;
        let tokens = self.under_way.front()?.work.tokens;
        (self.silence >= time).then_some(Overdue { tokens, silence: self.silence })
    }

    /// Returns how long nothing may be heard of a replica with work before it hesitates (**W-5**), and
    /// before it counts as stalled.
    pub(crate) fn patience(&self) -> Patience {
        let pace = self.under_way.front().and_then(|step| self.paces.expected(step.work));
        let pace = pace.map(|pace| pace * HESITATION);
        Patience {
            quick: limited(pace).max(HESITATION_MIN),
            stalled: self.time().map_or(STALL, |time| STALL.max(time / STALL_PART)),
        }
    }

    /// Returns the time limit of the oldest step.
    fn time(&self) -> Option<Duration> {
        let step = self.under_way.front()?;
        match self.deadline {
            StepDeadline::Measured => Some(self.paces.time(step.work)),
            StepDeadline::Fixed(time) => Some(time),
            StepDeadline::Never => None,
        }
    }

    fn heard(&mut self, now: Duration) {
        (self.looked, self.silence) = (now, Duration::ZERO);
    }
}

// === impl Work ===

impl Work {
    fn of(plan: &StepPlan) -> Self {
        let (mut tokens, mut pairs) = (0, 0);
        for run in &plan.runs {
            let (fed, end) = (u64::from(run.tokens), u64::from(run.start) + u64::from(run.tokens));
            tokens += fed;
            pairs += fed * (end + LINEAR);
        }
        // A plan that only changes slots.
        Self { tokens: tokens.max(1), pairs: pairs.max(LINEAR) }
    }

    fn size(self) -> (u32, u32) {
        (self.tokens.ilog2(), self.pairs.ilog2())
    }
}

// === impl Paces ===

impl Paces {
    /// Records how long a step took.
    pub(crate) fn measured(&mut self, work: Work, took: Duration) {
        let longest = self.0.entry(work.size()).or_default();
        *longest = took.as_secs_f64().max(*longest * REMEMBERED);
    }

    /// Returns the seconds that a step takes, or more; `None` if nothing was measured.
    pub(crate) fn expected(&self, work: Work) -> Option<f64> {
        if let Some(own) = self.0.get(&work.size()) {
            return Some(*own);
        }
        let scaled = self.0.iter().map(|(&(tokens, pairs), took)| {
            // The smallest step of that size.
            let ratio = |own: u64, log: u32| own as f64 / (1u64 << log) as f64;
            took * ratio(work.tokens, tokens).max(ratio(work.pairs, pairs)).max(1.0)
        });
        scaled.min_by(f64::total_cmp)
    }

    fn time(&self, work: Work) -> Duration {
        limited(self.expected(work).map(|expected| expected * FACTOR)).max(FLOOR)
    }
}

/// Returns this many seconds, or the [`CEILING`] (**W-3**).
fn limited(seconds: Option<f64>) -> Duration {
    Duration::from_secs_f64(seconds.unwrap_or(f64::INFINITY).min(CEILING.as_secs_f64()))
}

#[cfg(test)]
mod tests;
