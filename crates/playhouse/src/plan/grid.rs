//! An autotuner's grid: every combination with its verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use playhouse_layout::ModelShape;
use playhouse_planner::dialect::{Dialect, Grid, Point};
use playhouse_planner::{Serving, layout};
use serde::Serialize;

use super::said::Said;
use super::sources;
use crate::error::CliError;

/// The verdicts on a grid.
#[derive(Serialize)]
struct Verdicts<'a> {
    points: Vec<Combination<'a>>,
    /// The number of combinations of the grid, including those that were not checked.
    total: u64,
    /// The members of the file that are no list.
    left_out: &'a [String],
}

/// One combination.
#[derive(Serialize)]
struct Combination<'a> {
    values: BTreeMap<&'a str, &'a str>,
    /// The layout, if it can run.
    layout: Option<String>,
    /// The reasons why the layout cannot run.
    reasons: Vec<String>,
}

/// Prints a line for every combination: its values, then the layout or why it cannot run. The exit code
/// is 2 when none can run.
pub(super) fn run(
    file: &str,
    dialect: Dialect,
    shape: Option<&ModelShape>,
    said: &Said,
) -> Result<ExitCode, CliError> {
    let document = sources::document(file)?;
    let grid = Grid::read(dialect, &document).map_err(|why| CliError::failure(why.to_string()))?;
    let verdicts = Verdicts {
        points: grid.points.iter().map(|point| verdict(point, dialect, shape)).collect(),
        total: grid.total,
        left_out: &grid.left_out,
    };
    let none = verdicts.points.iter().all(|point| point.layout.is_none());
    said.answer(&verdicts, || text(&verdicts))?;
    Ok(if none { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn text(verdicts: &Verdicts<'_>) -> String {
    let mut text = String::new();
    for Combination { values, layout, reasons } in &verdicts.points {
        let values: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (mark, why) = match layout {
            Some(layout) => ("ok ", layout.clone()),
            None => ("no ", reasons.join("; ")),
        };
        let _ = writeln!(text, "{mark} {}  {why}", values.join(" "));
    }
    let valid = verdicts.points.iter().filter(|point| point.layout.is_some()).count();
    let read = verdicts.points.len();
    let _ = writeln!(text, "{valid} of {read} combinations can run");
    if verdicts.total > read as u64 {
        let _ = writeln!(text, "{} more were not looked at", verdicts.total - read as u64);
    }
    if !verdicts.left_out.is_empty() {
        let _ = writeln!(text, "left out, as no list: {}", verdicts.left_out.join(", "));
    }
    text
}

fn verdict<'a>(point: &'a Point, dialect: Dialect, shape: Option<&ModelShape>) -> Combination<'a> {
    let values = point.values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let refused = |reasons| Combination { values, layout: None, reasons };
    let mut reading = match &point.reading {
        Ok(reading) => reading.clone(),
        Err(problems) => return refused(problems.iter().map(ToString::to_string).collect()),
    };
    if let Some(shape) = shape {
        reading.store(&mut shape.clone(), &mut Serving::default());
        reading.settle(shape);
    }
    let violations = reading.check(shape, dialect.rules());
    if !violations.is_empty() {
        return refused(violations.iter().map(|broken| broken.message.clone()).collect());
    }
    Combination { layout: Some(layout(&reading.spec)), ..refused(Vec::new()) }
}
