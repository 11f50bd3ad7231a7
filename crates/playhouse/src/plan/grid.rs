//! An autotuner's grid: every combination with its verdict.

use std::fmt::Write as _;
use std::process::ExitCode;

use playhouse_planner::dialect::{Dialect, Grid, Point};
use playhouse_planner::{ModelShape, layout};

use super::{print, sources};
use crate::error::CliError;

/// Prints a line for every combination: its values, then the layout or why it cannot run. Exit code
/// 1 when none can.
pub(super) fn run(
    file: &str,
    dialect: Dialect,
    shape: Option<&ModelShape>,
) -> Result<ExitCode, CliError> {
    let document = sources::document(file)?;
    let grid = Grid::read(dialect, &document).map_err(|why| CliError::usage(why.to_string()))?;
    let mut text = String::new();
    let mut valid = 0;
    for point in &grid.points {
        let values: Vec<_> =
            point.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let verdict = verdict(point, dialect, shape);
        valid += usize::from(verdict.is_ok());
        let (mark, why) = match &verdict {
            Ok(why) => ("ok ", why),
            Err(why) => ("no ", why),
        };
        let _ = writeln!(text, "{mark} {}  {why}", values.join(" "));
    }
    let (read, total) = (grid.points.len(), grid.total);
    let _ = writeln!(text, "{valid} of {read} combinations can run");
    if total > read as u64 {
        let _ = writeln!(text, "{} more were not looked at", total - read as u64);
    }
    if !grid.left_out.is_empty() {
        let _ = writeln!(text, "left out, as no list: {}", grid.left_out.join(", "));
    }
    print(&text)?;
    Ok(if valid > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(point: &Point, dialect: Dialect, shape: Option<&ModelShape>) -> Result<String, String> {
    let join = |lines: Vec<String>| lines.join("; ");
    let mut reading = match &point.reading {
        Ok(reading) => reading.clone(),
        Err(problems) => return Err(join(problems.iter().map(ToString::to_string).collect())),
    };
    if let Some(shape) = shape {
        reading.settle(shape);
    }
    let violations = reading.check(shape, dialect.rules());
    if violations.is_empty() {
        return Ok(layout(&reading.spec));
    }
    Err(join(violations.iter().map(|violation| violation.message.clone()).collect()))
}
