//! Files with settings: JSON, YAML and TOML.

use playhouse_types::ParallelSpec;
use serde::Serialize;
use serde_json::Value;

use super::Problem;

/// A settings file that a command names, or that replaces a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Document {
    /// Name of the file, as the command gives it.
    pub name: String,
    /// Contents of the file.
    pub text: String,
}

/// Most bytes of a document: settings files are small.
const BYTES_MAX: usize = 1 << 20;

// === impl Document ===

impl Document {
    /// Parses the settings of a YAML file; JSON is YAML.
    pub(super) fn tree(&self) -> Result<serde_json::Map<String, Value>, Problem> {
        let bad = |reason: String| Problem::BadDocument { name: self.name.clone(), reason };
        if self.text.len() > BYTES_MAX {
            return Err(bad(format!("{} bytes exceed {BYTES_MAX}", self.text.len())));
        }
        let tree: Value = serde_saphyr::from_str(&self.text).map_err(|error| {
            // The first line says where and what; the rest shows the place.
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            bad(first.strip_prefix("error: ").unwrap_or(first).to_owned())
        })?;
        match tree {
            Value::Object(settings) => Ok(settings),
            Value::Null => Ok(serde_json::Map::new()),
            other => Err(bad(format!("a table of settings was expected, found {}", sort(&other)))),
        }
    }

    /// Parses the layout of a TOML file.
    ///
    /// # Errors
    /// An unknown key, a wrong type or a size that does not fit, with its position.
    pub fn spec(&self) -> Result<ParallelSpec, Problem> {
        toml::from_str(&self.text).map_err(|error: toml::de::Error| Problem::BadDocument {
            name: self.name.clone(),
            reason: error.to_string(),
        })
    }
}

/// Returns the JSON type of a value.
pub(super) fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}
