//! Scenario files: a benchmark's settings and the thresholds that its result must meet.
//!
//! A flag on the command line overrides the file; a setting in neither has its default.

use std::path::Path;

use serde_json::{Map, Value};
use toml::Table;

use super::settings::Settings;
use crate::error::CliError;

/// The maximum size of a scenario file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Limits on numbers of a result: `min_` or `max_` before the number's key in the JSON, such as
/// `max_p99_ttft_ms = 250`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Thresholds(Vec<Threshold>);

#[derive(Clone, Debug, PartialEq)]
struct Threshold {
    name: String,
    limit: f64,
}

/// The comparison of a result with one threshold.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    /// Whether the threshold is met.
    pub(super) met: bool,
    /// The threshold, the number and the limit, as text.
    pub(super) text: String,
}

/// Reads a scenario and overrides it by `flags`; `is_given` says which flags are on the command line.
///
/// # Errors
/// Returns an error if the file cannot be read, is not TOML, or has a key or a type that no setting has.
pub(super) fn overlay(
    path: &Path,
    flags: &Settings,
    is_given: impl Fn(&str) -> bool,
) -> Result<(Settings, Thresholds), CliError> {
    let failed = |what: String| CliError::usage(format!("scenario {}: {what}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("is {length} bytes long; at most {FILE_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let mut scenario: Table = text.parse().map_err(|error| failed(format!("{error}")))?;

    let thresholds = match scenario.remove("thresholds") {
        None => Thresholds::default(),
        Some(toml::Value::Table(table)) => Thresholds::read(&table).map_err(&failed)?,
        Some(_) => return Err(failed("`thresholds` must be a table: [thresholds]".to_owned())),
    };
    // A data set named in the file is beside the file.
    if let Some(toml::Value::String(dataset)) = scenario.get_mut("dataset_path") {
        let folder = path.parent().unwrap_or(Path::new(""));
        *dataset = folder.join(&*dataset).to_string_lossy().into_owned();
    }
    let mut merged = Table::try_from(flags)
        .map_err(|error| CliError::usage(format!("a flag has no place in a scenario: {error}")))?;
    merged.extend(scenario.into_iter().filter(|(key, _)| !is_given(key)));
    let settings = merged.try_into().map_err(|error: toml::de::Error| {
        failed(in_words(error.to_string().trim()))
            .hint("keys are the flags of `playhouse bench --help`, with _ for -")
    })?;
    Ok((settings, thresholds))
}

/// Returns an error of the parser with words in place of the types of this program.
fn in_words(error: &str) -> String {
    let types = ["usize", "u64", "u32", "u16"];
    let whole =
        |text: String, name| text.replace(&format!("expected {name}"), "expected a whole number");
    let text = types.into_iter().fold(error.to_owned(), whole);
    text.replace("expected f64", "expected a number")
}

// === impl Thresholds ===

impl Thresholds {
    fn read(table: &Table) -> Result<Self, String> {
        let read = |(name, value): (&String, &toml::Value)| {
            let limit = value.as_float().or_else(|| value.as_integer().map(|int| int as f64));
            let limit = limit
                .filter(|limit| !limit.is_nan())
                .ok_or_else(|| format!("threshold {name} = {value} must be a number"))?;
            if !name.starts_with("min_") && !name.starts_with("max_") {
                return Err(format!("threshold {name} must begin with min_ or max_"));
            }
            Ok(Threshold { name: name.clone(), limit })
        };
        table.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Refuses thresholds on numbers that a result does not have; to be called before the run.
    ///
    /// # Errors
    /// Returns the first such threshold, with the valid names.
    pub(super) fn check(&self, numbers: &Map<String, Value>) -> Result<(), CliError> {
        for threshold in &self.0 {
            if !numbers.contains_key(threshold.key()) {
                let known: Vec<&str> = numbers.keys().map(String::as_str).collect();
                return Err(CliError::usage(format!(
                    "threshold {}: the result has no number {}",
                    threshold.name,
                    threshold.key()
                ))
                .hint(format!("it has {}", known.join(", "))));
            }
        }
        Ok(())
    }

    /// Compares a result with each threshold. A latency that no request had meets none.
    pub(super) fn judge(&self, numbers: &Map<String, Value>) -> Vec<Verdict> {
        let judge = |threshold: &Threshold| {
            let (name, limit) = (&threshold.name, threshold.limit);
            let Some(found) = numbers.get(threshold.key()).and_then(Value::as_f64) else {
                return Verdict { met: false, text: format!("FAIL {name:<36} no request had it") };
            };
            let (met, sign) = match threshold.is_minimum() {
                true => (found >= limit, if found >= limit { ">=" } else { "<" }),
                false => (found <= limit, if found <= limit { "<=" } else { ">" }),
            };
            let mark = if met { "ok  " } else { "FAIL" };
            Verdict { met, text: format!("{mark} {name:<36} {found:.2} {sign} {limit}") }
        };
        self.0.iter().map(judge).collect()
    }
}

// === impl Threshold ===

impl Threshold {
    fn is_minimum(&self) -> bool {
        self.name.starts_with("min_")
    }

    fn key(&self) -> &str {
        &self.name["min_".len()..]
    }
}

#[cfg(test)]
mod tests;
