//! The gain of more ranks: the real server in several layouts, on a checkpoint of the shape of
//! Qwen2.5-0.5B with random weights, under the load of `playhouse bench`.
//!
//! `cargo bench -p playhouse --bench scaling` prints a table. `-- --rows tp2,pp2` runs only these,
//! and what they are compared with.
//!
//! The layouts take turns, each in a server of its own, and a ratio compares servers of the same
//! turn, so that a machine that slows down is not read as a ratio.
//!
//! - `PLAYHOUSE_SCALING_MODEL=FOLDER` keeps the checkpoint (1 GB) there for the next time.
//! - `PLAYHOUSE_SCALING_REQUESTS=N` in a load.
//! - `PLAYHOUSE_SCALING_TINY=1` takes a tiny model and few requests: whether it works, no more.
#![allow(clippy::print_stdout, reason = "the table is the product")]

mod checkpoint;
mod server;
mod table;

use std::env;
use std::fs;
use std::path::PathBuf;

use checkpoint::{QWEN, Shape, TINY};
use server::{Load, Server};
use table::Cell;

const TURNS: usize = 2;
/// Three batches of 16.
const REQUESTS: usize = 48;
const REQUESTS_TINY: usize = 4;

/// A name, and what `serve` is told: a thread for each rank, but for the second.
const LAYOUTS: [(&str, &[&str]); 7] = [
    ("one", &["--threads", "1"]),
    ("one-2-threads", &["--threads", "2"]),
    ("tp2", &["--threads", "2", "-tp", "2"]),
    ("tp2-isolation-thread", &["--threads", "2", "-tp", "2", "--isolation", "thread"]),
    ("pp2", &["--threads", "2", "-pp", "2"]),
    ("pp2-one-step", &["--threads", "2", "-pp", "2", "--max-concurrent-batches", "1"]),
    ("dp2", &["--threads", "2", "-dp", "2"]),
];

/// Layouts under one load.
struct Comparison {
    load: Load,
    /// A layout, and its ratio that is wanted; the first is the one that the others are held
    /// against.
    rows: &'static [(&'static str, &'static str)],
}

const OF_ONE_THREAD: &[(&str, &str)] = &[
    ("one", ""),
    ("tp2", ">= 1.7"),
    ("tp2-isolation-thread", ""),
    ("pp2", ">= 1.7"),
    ("pp2-one-step", "<= 1.15"),
    ("dp2", ">= 1.8"),
];
const OF_TWO_THREADS: &[(&str, &str)] =
    &[("one-2-threads", ""), ("tp2", ">= 0.92"), ("tp2-isolation-thread", "")];

const COMPARISONS: [Comparison; 4] = [
    Comparison { load: Load { input: 512, output: 16, at_once: 16 }, rows: OF_ONE_THREAD },
    Comparison { load: Load { input: 512, output: 1, at_once: 16 }, rows: OF_TWO_THREADS },
    Comparison { load: Load { input: 16, output: 64, at_once: 1 }, rows: OF_TWO_THREADS },
    Comparison { load: Load { input: 16, output: 64, at_once: 16 }, rows: OF_TWO_THREADS },
];

/// The rows that were asked for; all of them if none.
struct Selection(Vec<String>);

/// Returns the path of the checkpoint.
struct Folder {
    path: PathBuf,
    kept: bool,
}

/// The settings of all servers.
struct Bench {
    selection: Selection,
    folder: Folder,
    shape: Shape,
    requests: usize,
}

fn main() {
    let bench = Bench::from_environment();
    println!("{}; {} requests in a load", table::machine(), bench.requests);
    let mut cells = Vec::new();
    for turn in 1..=TURNS {
        for (layout, flags) in LAYOUTS {
            cells.extend(bench.measure(turn, layout, flags));
        }
    }
    table::print(&cells);
}

// === impl Bench ===

impl Bench {
    fn from_environment() -> Self {
        let (shape, requests) = match env::var_os("PLAYHOUSE_SCALING_TINY") {
            Some(_) => (TINY, REQUESTS_TINY),
            None => (QWEN, REQUESTS),
        };
        let asked = env::var("PLAYHOUSE_SCALING_REQUESTS").ok();
        let asked = asked.map(|count| count.parse().expect("so many requests are a number"));
        let selection = Selection::from_args();
        let folder = Folder::of(&shape);
        Self { selection, folder, shape, requests: asked.unwrap_or(requests) }
    }

    /// Measures one server under all loads that it is needed for.
    fn measure(&self, turn: usize, layout: &'static str, flags: &[&str]) -> Vec<Cell> {
        let wanted = COMPARISONS.iter().enumerate();
        let mut wanted = wanted.filter(|(_, it)| self.selection.wants(it.rows, layout)).peekable();
        if wanted.peek().is_none() {
            return Vec::new();
        }
        let server = Server::start(&self.folder.path, flags);
        let cell = |(comparison, it): (usize, &Comparison)| {
            let measured = server.measure(&it.load, comparison, self.requests, self.shape.vocab);
            println!("turn {turn}, {layout}, {}: {:.1} tok/s", it.load, measured.tokens_per_s);
            Cell { turn, comparison, layout, measured }
        };
        let cells = wanted.map(cell).collect();
        server.stop();
        cells
    }
}

// === impl Selection ===

impl Selection {
    /// The arguments after `--rows`. Cargo adds `--bench`.
    fn from_args() -> Self {
        let mut args = env::args().skip_while(|arg| arg != "--rows").skip(1);
        let names = args.next().unwrap_or_default();
        let names: Vec<_> =
            names.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        for name in &names {
            let known = LAYOUTS.map(|(known, _)| known);
            assert!(known.contains(&name.as_str()), "{name} is none of {}", known.join(", "));
        }
        Self(names)
    }

    fn has(&self, layout: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| name == layout)
    }

    /// Returns whether one of the rows is needed, itself or for a comparison.
    fn wants(&self, rows: &[(&str, &str)], layout: &str) -> bool {
        match rows.iter().position(|(row, _)| *row == layout) {
            None => false,
            Some(0) => rows.iter().any(|(row, _)| self.has(row)),
            Some(_) => self.has(layout),
        }
    }
}

// === impl Folder ===

impl Folder {
    /// Writes the checkpoint, unless it has been kept.
    fn of(shape: &Shape) -> Self {
        let kept = env::var_os("PLAYHOUSE_SCALING_MODEL").map(PathBuf::from);
        let of_our_own =
            || env::temp_dir().join(format!("playhouse-scaling-{}", std::process::id()));
        let folder = Self { kept: kept.is_some(), path: kept.unwrap_or_else(of_our_own) };
        shape.write(&folder.path).expect("there is room for a checkpoint");
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}
