//! Progress of long work: a bar on a terminal, plain lines anywhere else.
//!
//! - **P-1** off a terminal there is at most one line per second and at most one per ten percent,
//!   besides the last one.
//! - **P-2** where logs are for machines, progress is lines of the log.
//!
//! All of it goes to standard error, so that standard output stays a result.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use tracing::info;

/// The unit of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Items of this name, such as `requests`.
    Count(&'static str),
    /// Bytes, shown in powers of 1024.
    Bytes,
}

/// The progress of some work.
pub(crate) struct Progress {
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
    Nowhere,
}

/// The progress as plain lines, which determines when a line is due and what it says.
struct Lines {
    label: &'static str,
    total: u64,
    unit: Unit,
    started: Instant,
    printed: Option<(Instant, u64)>,
}

/// The minimum time between two lines ...
const LINE_EVERY: Duration = Duration::from_secs(1);
/// ... and the minimum part of the total between them.
const LINE_PERCENT: u64 = 10;

/// Whether lines are events of the log (**P-2**).
static LOGGED: AtomicBool = AtomicBool::new(false);

/// Sends progress to the log from now on.
pub(crate) fn log() {
    LOGGED.store(true, Ordering::Relaxed);
}

// === impl Progress ===

impl Progress {
    /// Starts to show work of `total` units: a bar if standard error is a terminal, else lines.
    pub(crate) fn start(label: &'static str, total: u64, unit: Unit) -> Self {
        if LOGGED.load(Ordering::Relaxed) || !io::stderr().is_terminal() {
            let started = Instant::now();
            return Self {
                shown: Shown::Lines(Lines { label, total, unit, started, printed: None }),
            };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template(unit.template()).expect("the templates here are valid"),
        );
        bar.set_prefix(label);
        Self { shown: Shown::Bar(bar) }
    }

    /// Returns a progress that is not shown.
    pub(crate) fn hidden() -> Self {
        Self { shown: Shown::Nowhere }
    }

    /// Updates the progress: `done` units are done, counted from the start.
    pub(crate) fn set(&mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines(lines) => {
                if let Some(line) = lines.due(Instant::now(), done) {
                    print(&line);
                }
            }
            Shown::Nowhere => {}
        }
    }

    /// Ends the progress, complete or not: a bar leaves the screen, lines get their last one.
    pub(crate) fn finish(mut self, done: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines(lines) => {
                if let Some(line) = lines.last(Instant::now(), done) {
                    print(&line);
                }
            }
            Shown::Nowhere => {}
        }
    }
}

fn print(line: &str) {
    if LOGGED.load(Ordering::Relaxed) {
        return info!("{line}");
    }
    // Progress is not worth failing for.
    let _ = writeln!(io::stderr(), "{line}");
}

// === impl Unit ===

impl Unit {
    fn template(self) -> &'static str {
        match self {
            Self::Count(_) => {
                "{prefix} [{bar:32}] {pos}/{len}  {per_sec}  elapsed {elapsed}  left {eta}"
            }
            Self::Bytes => {
                "{prefix} [{bar:32}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  left {eta}"
            }
        }
    }

    fn amount(self, done: u64, total: u64) -> String {
        match self {
            Self::Count(name) => format!("{done}/{total} {name}"),
            Self::Bytes => format!("{}/{}", BinaryBytes(done), BinaryBytes(total)),
        }
    }

    fn rate(self, per_second: f64) -> String {
        match self {
            Self::Count(_) => format!("{per_second:.1}/s"),
            Self::Bytes => format!("{}/s", BinaryBytes(per_second as u64)),
        }
    }
}

// === impl Lines ===

impl Lines {
    fn due(&mut self, now: Instant, done: u64) -> Option<String> {
        let (last_at, last_done) = self.printed.unwrap_or((self.started, 0));
        let step = (self.total * LINE_PERCENT).div_ceil(100).max(1);
        let waited = now.duration_since(last_at) >= LINE_EVERY;
        let complete = done >= self.total && last_done < self.total;
        (complete || (waited && done >= last_done + step)).then(|| self.line(now, done))
    }

    fn last(&mut self, now: Instant, done: u64) -> Option<String> {
        let told = self.printed.is_some_and(|(_, last_done)| last_done == done);
        (!told).then(|| self.line(now, done))
    }

    fn line(&mut self, now: Instant, done: u64) -> String {
        self.printed = Some((now, done));
        let percent = (done * 100).checked_div(self.total).unwrap_or(100);
        let seconds = now.duration_since(self.started).as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let (amount, rate) = (self.unit.amount(done, self.total), self.unit.rate(rate));
        format!("{}: {percent} % ({amount}, {rate})", self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(total: u64) -> Lines {
        let started = Instant::now();
        Lines { label: "load", total, unit: Unit::Count("requests"), started, printed: None }
    }

    #[test]
    fn lines_come_once_per_second_and_per_ten_percent() {
        let mut lines = lines(1000);
        let start = lines.started;
        let printed: Vec<u64> = (1..=1000)
            .filter(|&done| {
                // 1 ms per unit for the first half, then 10 ms per unit.
                let ms = if done <= 500 { done } else { 500 + (done - 500) * 10 };
                lines.due(start + Duration::from_millis(ms), done).is_some()
            })
            .collect();
        // The first half takes half a second, so no line falls into it; 100 units of the second
        // half take a second, so both limits allow each of them; the last is always told.
        assert_eq!(printed, [550, 650, 750, 850, 950, 1000]);
    }

    #[test]
    fn a_slow_load_is_told_per_ten_percent() {
        let mut lines = lines(100);
        let start = lines.started;
        let count = (1..=100)
            .filter(|&done| lines.due(start + Duration::from_secs(done * 5), done).is_some())
            .count();
        assert_eq!(count, 10);
    }

    #[test]
    fn a_line_names_share_amount_and_rate() {
        let mut lines = lines(400);
        let at = lines.started + Duration::from_secs(2);
        assert_eq!(lines.due(at, 100).as_deref(), Some("load: 25 % (100/400 requests, 50.0/s)"));
        assert_eq!(lines.last(at, 100), None, "already told");
        assert_eq!(lines.last(at, 101).as_deref(), Some("load: 25 % (101/400 requests, 50.5/s)"));
    }
}
