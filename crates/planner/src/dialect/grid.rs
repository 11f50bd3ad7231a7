//! The autotuner's grid of parameters: every combination is read as a command.

use serde_json::Value as Json;

use super::document::sort;
use super::{Dialect, Document, Problem, Reading, read};

/// Most combinations that are read; further ones are only counted.
pub const GRID_MAX: usize = 4096;
/// Most values of one parameter.
const VALUES_MAX: usize = 256;
/// Most parameters of a grid.
const PARAMETERS_MAX: usize = 64;

/// The combinations of a grid: parameters in the order of their names, the last changing fastest.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The first [`GRID_MAX`] combinations at most.
    pub points: Vec<Point>,
    /// Number of combinations in the grid.
    pub total: u64,
    /// Parameters that were left out, because no list can hold them (continuous ranges).
    pub left_out: Vec<String>,
}

/// One combination of a grid.
#[derive(Clone, Debug)]
pub struct Point {
    /// Name and value of each parameter.
    pub values: Vec<(String, String)>,
    /// The meaning of the combination, read as a command.
    pub reading: Result<Reading, Vec<Problem>>,
}

/// A parameter and its possible values.
struct Axis {
    name: String,
    values: Vec<String>,
}

// === impl Grid ===

impl Grid {
    /// Reads a grid: `{"tp-size": [1, 2, 4]}`, or `{"type": "integer", "low": 1, "high": 8, "log": true}` for
    /// a parameter. The parameters may be below the key `parameters`, as in the autotuner's tasks.
    ///
    /// # Errors
    /// When the file is no such grid.
    pub fn read(dialect: Dialect, document: &Document) -> Result<Self, Problem> {
        let mut tree = document.tree()?;
        if let Some(Json::Object(parameters)) = tree.remove("parameters") {
            tree = parameters;
        }
        let bad = |reason: String| Problem::BadDocument { name: document.name.clone(), reason };
        if tree.len() > PARAMETERS_MAX {
            return Err(bad(format!("{} parameters exceed {PARAMETERS_MAX}", tree.len())));
        }
        let mut axes = Vec::new();
        let mut left_out = Vec::new();
        for (name, value) in &tree {
            match values(value).map_err(|reason| bad(format!("{name}: {reason}")))? {
                Some(values) => axes.push(Axis { name: name.clone(), values }),
                None => left_out.push(name.clone()),
            }
        }
        let total =
            axes.iter().fold(1_u64, |total, axis| total.saturating_mul(axis.values.len() as u64));
        let count = usize::try_from(total).unwrap_or(usize::MAX).min(GRID_MAX);
        let points = (0..count).map(|index| Point::at(dialect, &axes, index)).collect();
        Ok(Self { points, total, left_out })
    }
}

// === impl Point ===

impl Point {
    /// Reads combination number `index`.
    fn at(dialect: Dialect, axes: &[Axis], index: usize) -> Self {
        let mut rest = index;
        let mut values: Vec<(String, String)> = axes
            .iter()
            .rev()
            .map(|axis| {
                let value = axis.values[rest % axis.values.len()].clone();
                rest /= axis.values.len();
                (axis.name.clone(), value)
            })
            .collect();
        values.reverse();
        let words: Vec<String> =
            values.iter().map(|(name, value)| format!("--{name}={value}")).collect();
        Self { values, reading: read(dialect, &words, &[]) }
    }
}

/// Returns the possible values of a parameter; `None` for a continuous range.
fn values(value: &Json) -> Result<Option<Vec<String>>, String> {
    let values = match value {
        Json::Array(items) => items.iter().map(plain).collect::<Result<Vec<String>, String>>()?,
        Json::Object(range) => {
            let number = |name: &str| {
                range
                    .get(name)
                    .and_then(Json::as_u64)
                    .ok_or_else(|| format!("{name} is missing or no whole number"))
            };
            match range.get("type").and_then(Json::as_str) {
                Some("continuous") => return Ok(None),
                Some("categorical") => {
                    let choices = range.get("choices").or_else(|| range.get("values"));
                    return choices.map_or(Err("choices are missing".to_owned()), values);
                }
                Some("integer") => {
                    let log = range.get("log").and_then(Json::as_bool).unwrap_or(false);
                    integers(number("low")?, number("high")?, log)
                }
                _ => return Err("a range is categorical, integer or continuous".to_owned()),
            }
        }
        single => vec![plain(single)?],
    };
    match values.len() {
        0 => Err("no value to try".to_owned()),
        count if count > VALUES_MAX => Err(format!("{count} values exceed {VALUES_MAX}")),
        _ => Ok(Some(values)),
    }
}

/// Lists the integers of a range: at most one more than the limit, so that a caller notices too many.
fn integers(low: u64, high: u64, log: bool) -> Vec<String> {
    let next = |value: &u64| if log { value.max(&1).checked_mul(2) } else { value.checked_add(1) };
    std::iter::successors(Some(low), next)
        .take_while(|value| *value <= high)
        .take(VALUES_MAX + 1)
        .map(|value| value.to_string())
        .collect()
}

fn plain(value: &Json) -> Result<String, String> {
    match value {
        Json::Bool(on) => Ok(on.to_string()),
        Json::Number(number) => Ok(number.to_string()),
        Json::String(text) => Ok(text.clone()),
        other => Err(format!("{} is no value of a flag", sort(other))),
    }
}
