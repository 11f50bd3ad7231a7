//! Reading numbers, flags and names out of a JSON object with unchecked contents.

use std::ops::RangeInclusive;

use playhouse_types::TokenId;
use serde_json::{Map, Value};

use super::ConfigError;

/// Longest piece of a file that an error message repeats, in characters.
const SHOWN_CHARS: usize = 80;

/// A JSON object of a checkpoint file. Every getter treats `null` as absent.
pub(super) struct Fields<'a> {
    file: &'static str,
    /// Path of the object in the file: empty, or `rope_scaling.` and the like.
    prefix: String,
    map: &'a Map<String, Value>,
}

/// Parses a file whose top level must be an object.
pub(super) fn parse_object(
    file: &'static str,
    json: &[u8],
) -> Result<Map<String, Value>, ConfigError> {
    serde_json::from_slice(json)
        .map_err(|error| ConfigError::Json { file, reason: error.to_string() })
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn new(file: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { file, prefix: String::new(), map }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns whether the key is in the object, even with the value `null`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Returns the error for a key whose value is present but not usable.
    pub(super) fn refuse(&self, key: &str, expected: impl Into<String>) -> ConfigError {
        ConfigError::Key {
            file: self.file,
            key: format!("{}{key}", self.prefix),
            found: self.map.get(key).map_or_else(|| "nothing".to_owned(), shown),
            expected: expected.into(),
        }
    }

    /// Returns the whole number under a key. `4.0` counts as a whole number, because Python may write either.
    pub(super) fn count(
        &self,
        key: &str,
        allowed: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match whole(value).and_then(|number| usize::try_from(number).ok()) {
            Some(number) if allowed.contains(&number) => Ok(Some(number)),
            _ => {
                let (low, high) = (allowed.start(), allowed.end());
                Err(self.refuse(key, format!("a whole number between {low} and {high}")))
            }
        }
    }

    /// Returns the finite number under a key.
    pub(super) fn number(
        &self,
        key: &str,
        allowed: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if allowed.contains(&number) => Ok(Some(number)),
            _ => {
                let (low, high) = (allowed.start(), allowed.end());
                Err(self.refuse(key, format!("a number between {low} and {high}")))
            }
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.refuse(key, "true or false"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(key, "a string"))
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| self.refuse(key, "a list"))?;
        Ok(Some(list))
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.refuse(key, "an object"))?;
        Ok(Some(Fields { file: self.file, prefix: format!("{}{key}.", self.prefix), map }))
    }

    /// Returns the token ids under a key, which is one id or a list of them, each below `vocab`.
    pub(super) fn tokens(
        &self,
        key: &str,
        vocab: usize,
    ) -> Result<Option<Vec<TokenId>>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let one = std::slice::from_ref(value);
        let ids = value.as_array().map_or(one, Vec::as_slice);
        let token = |id: &Value| {
            let id = usize::try_from(whole(id)?).ok().filter(|&id| id < vocab)?;
            TokenId::try_from(id).ok()
        };
        ids.iter().map(token).collect::<Option<Vec<_>>>().map(Some).ok_or_else(|| {
            self.refuse(key, format!("a token id below vocab_size ({vocab}), or a list of them"))
        })
    }
}

/// Returns a JSON number without a fraction as an integer.
pub(super) fn whole(value: &Value) -> Option<i64> {
    // Above 2^53 an f64 no longer holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= EXACT)?;
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        Some(number as i64)
    })
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
