//! Reading numbers, flags and names out of a JSON object that nobody vouches for.

use serde_json::{Map, Value};

use super::ShapeError;

/// Longest piece of the file that an error message repeats, in characters.
const SHOWN_CHARS: usize = 80;

/// A JSON object of `config.json`. Every getter takes `null` for absent.
pub(super) struct Fields<'a> {
    /// Where the object stands in the file: empty, or `text_config.` and the like.
    prefix: String,
    map: &'a Map<String, Value>,
}

/// Parses a file whose top level must be an object.
pub(super) fn parse_object(json: &[u8]) -> Result<Map<String, Value>, ShapeError> {
    serde_json::from_slice(json).map_err(|error| ShapeError::Json(error.to_string()))
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { prefix: String::new(), map }
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The error for a key whose value is missing or not usable.
    pub(super) fn refuse(&self, key: &str, expected: impl Into<String>) -> ShapeError {
        ShapeError::Key {
            key: format!("{}{key}", self.prefix),
            found: self.map.get(key).map_or_else(|| "nothing".to_owned(), shown),
            expected: expected.into(),
        }
    }

    /// A whole number from `low` to `high`. `4.0` counts as one.
    pub(super) fn count(&self, key: &str, low: u64, high: u64) -> Result<Option<u64>, ShapeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match whole(value) {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(self.refuse(key, format!("a whole number between {low} and {high}"))),
        }
    }

    /// A whole number from 1 to `high` that must be there.
    pub(super) fn need(&self, key: &str, high: u64) -> Result<u64, ShapeError> {
        self.count(key, 1, high)?
            .ok_or_else(|| self.refuse(key, format!("a whole number between 1 and {high}")))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ShapeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.refuse(key, "true or false"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ShapeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, "a string"))
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ShapeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_array().map(|list| Some(list.as_slice())).ok_or_else(|| self.refuse(key, "a list"))
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ShapeError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.refuse(key, "an object"))?;
        Ok(Some(Fields { prefix: format!("{}{key}.", self.prefix), map }))
    }
}

/// A JSON number without a sign or a fraction.
pub(super) fn whole(value: &Value) -> Option<u64> {
    // Above 2^53 an f64 no longer holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=EXACT).contains(n))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        Some(number as u64)
    })
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
