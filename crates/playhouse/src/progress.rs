//! Progress of long work: a bar on a terminal, plain lines anywhere else.
//!
//! - **P-1** off a terminal there is at most one line per second and at most one per ten percent,
//!   besides the last one.
//! - **P-2** where logs are for machines, progress is lines of the log.
//! - **P-3** a rate is an average over a second at least: before that it would say how fast a cache or a
//!   buffer was.
//! - **P-4** a display ends with its [`Progress`], complete or not: a bar leaves the screen, lines get
//!   their last one.
//!
//! All of it goes to standard error, so that standard output stays a result.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
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

/// The progress of some work, shown until it is dropped (**P-4**).
pub(crate) struct Progress {
    work: Work,
    done: u64,
    shown: Shown,
}

/// The work whose progress is shown.
struct Work {
    label: &'static str,
    total: u64,
    unit: Unit,
    started: Instant,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
    Nowhere,
}

/// The last of the plain lines: when it was printed, and how much was done by then.
#[derive(Default)]
struct Lines {
    printed: Option<(Instant, u64)>,
}

/// The minimum time between two lines ...
const LINE_EVERY: Duration = Duration::from_secs(1);
/// ... and the minimum part of the total between them.
const LINE_PERCENT: u64 = 10;

/// The minimum time over which a rate is an average (**P-3**).
const RATE_MIN: Duration = Duration::from_secs(1);

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
        let shown = match !LOGGED.load(Ordering::Relaxed) && io::stderr().is_terminal() {
            true => Shown::Bar(bar(label, total, unit)),
            false => Shown::Lines(Lines::default()),
        };
        Self { work: Work { label, total, unit, started: Instant::now() }, done: 0, shown }
    }

    /// Returns a progress that is not shown.
    pub(crate) fn hidden() -> Self {
        let work = Work { label: "", total: 0, unit: Unit::Bytes, started: Instant::now() };
        Self { work, done: 0, shown: Shown::Nowhere }
    }

    /// Updates the progress: `done` units are done, counted from the start.
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        let now = Instant::now();
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(self.work.pace(now, done));
            }
            Shown::Lines(lines) => {
                if let Some(line) = lines.due(&self.work, now, done) {
                    print(&line);
                }
            }
            Shown::Nowhere => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            Shown::Lines(lines) => {
                if let Some(line) = lines.last(&self.work, Instant::now(), self.done) {
                    print(&line);
                }
            }
            Shown::Nowhere => {}
        }
    }
}

fn bar(label: &'static str, total: u64, unit: Unit) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template(unit.template()).expect("the templates here are valid"),
    );
    bar.set_prefix(label);
    bar
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
            Self::Count(_) => "{prefix} [{bar:32}] {pos}/{len}  elapsed {elapsed}  {msg}",
            Self::Bytes => "{prefix} [{bar:32}] {binary_bytes}/{binary_total_bytes}  {msg}",
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

// === impl Work ===

impl Work {
    /// Returns the units per second so far; `None` while that says nothing (**P-3**).
    fn rate(&self, now: Instant, done: u64) -> Option<f64> {
        let elapsed = now.duration_since(self.started);
        (elapsed >= RATE_MIN).then(|| done as f64 / elapsed.as_secs_f64())
    }

    /// Returns the rate and the time that is left at that rate, as far as they are known.
    fn pace(&self, now: Instant, done: u64) -> String {
        let Some(rate) = self.rate(now, done).filter(|rate| *rate > 0.0) else {
            return String::new();
        };
        let left = Duration::try_from_secs_f64(self.total.saturating_sub(done) as f64 / rate);
        let left = left.map(|left| format!("  left {:#}", HumanDuration(left)));
        self.unit.rate(rate) + &left.unwrap_or_default()
    }
}

// === impl Lines ===

impl Lines {
    fn due(&mut self, work: &Work, now: Instant, done: u64) -> Option<String> {
        let (last_at, last_done) = self.printed.unwrap_or((work.started, 0));
        let step = (work.total * LINE_PERCENT).div_ceil(100).max(1);
        let waited = now.duration_since(last_at) >= LINE_EVERY;
        let complete = done >= work.total && last_done < work.total;
        (complete || (waited && done >= last_done + step)).then(|| self.line(work, now, done))
    }

    fn last(&mut self, work: &Work, now: Instant, done: u64) -> Option<String> {
        let told = self.printed.is_some_and(|(_, last_done)| last_done == done);
        (!told).then(|| self.line(work, now, done))
    }

    fn line(&mut self, work: &Work, now: Instant, done: u64) -> String {
        self.printed = Some((now, done));
        let percent = (done * 100).checked_div(work.total).unwrap_or(100);
        let rate = work.rate(now, done).map(|rate| format!(", {}", work.unit.rate(rate)));
        let (amount, rate) = (work.unit.amount(done, work.total), rate.unwrap_or_default());
        format!("{}: {percent} % ({amount}{rate})", work.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(total: u64) -> Work {
        Work { label: "load", total, unit: Unit::Count("requests"), started: Instant::now() }
    }

    #[test]
    fn lines_come_once_per_second_and_per_ten_percent() {
        let (work, mut lines) = (work(1000), Lines::default());
        let printed: Vec<u64> = (1..=1000)
            .filter(|&done| {
                // 1 ms per unit for the first half, then 10 ms per unit.
                let ms = if done <= 500 { done } else { 500 + (done - 500) * 10 };
                lines.due(&work, work.started + Duration::from_millis(ms), done).is_some()
            })
            .collect();
        // The first half takes half a second, so no line falls into it; 100 units of the second
        // half take a second, so both limits allow each of them; the last is always told.
        assert_eq!(printed, [550, 650, 750, 850, 950, 1000]);
    }

    #[test]
    fn a_slow_load_is_told_per_ten_percent() {
        let (work, mut lines) = (work(100), Lines::default());
        let at = |done| work.started + Duration::from_secs(done * 5);
        let count = (1..=100).filter(|&done| lines.due(&work, at(done), done).is_some()).count();
        assert_eq!(count, 10);
    }

    #[test]
    fn a_line_names_share_amount_and_rate() {
        let (work, mut lines) = (work(400), Lines::default());
        let at = work.started + Duration::from_secs(2);
        let line = |lines: &mut Lines, done| lines.last(&work, at, done);
        assert_eq!(
            lines.due(&work, at, 100).as_deref(),
            Some("load: 25 % (100/400 requests, 50.0/s)")
        );
        assert_eq!(line(&mut lines, 100), None, "already told");
        assert_eq!(line(&mut lines, 101).as_deref(), Some("load: 25 % (101/400 requests, 50.5/s)"));
    }

    /// **P-3**: 64 GiB from the page cache in 10 ms are no 6,400 GiB/s.
    #[test]
    fn a_rate_takes_a_second() {
        let mut bytes = work(64 << 30);
        bytes.unit = Unit::Bytes;
        let at = |ms| bytes.started + Duration::from_millis(ms);
        assert_eq!(bytes.pace(at(10), 64 << 30), "");
        let line = Lines::default().last(&bytes, at(10), 64 << 30);
        assert_eq!(line.as_deref(), Some("load: 100 % (64.00 GiB/64.00 GiB)"));
        assert_eq!(bytes.pace(at(2000), 16 << 30), "8.00 GiB/s  left 6s");
        assert_eq!(bytes.pace(at(2000), 0), "", "nothing says how long the rest takes");
    }
}
