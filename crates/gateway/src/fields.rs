//! A reader of JSON objects, field by field, with errors that name the field.
//!
//! - **FLD-1** `null` counts as absent; `16.0` is accepted as an integer.
//! - **FLD-2** an error names the field with its path, the value given and what is allowed.

use playhouse_types::TokenId;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};
use crate::json::kind_of;

/// One object of a request, with the path to it.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// The path of the object: empty, or ending with a dot.
    path: String,
}

/// The maximum length of a given value that an error repeats.
const SHOWN_MAX: usize = 80;

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Returns a reader of the outermost object.
    pub(crate) fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, path: String::new() }
    }

    /// Returns a reader of `value`, an object at `path`.
    pub(crate) fn at(value: &'a Value, path: &str) -> Result<Self> {
        match value {
            Value::Object(object) => Ok(Self { object, path: format!("{path}.") }),
            other => Err(wrong_type(path, "an object", other)),
        }
    }

    pub(crate) fn object(&self) -> &'a Map<String, Value> {
        self.object
    }

    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Returns a 400 about the field `name`.
    pub(crate) fn bad(&self, name: &str, message: impl std::fmt::Display) -> ApiError {
        ApiError::bad_param(self.path_of(name), message)
    }

    pub(crate) fn fields(&self, name: &str) -> Result<Option<Self>> {
        self.get(name).map(|value| Self::at(value, &self.path_of(name))).transpose()
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a [Value]>> {
        self.typed(name, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    /// Returns a boolean that is `default` when absent.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.typed(name, "a boolean", Value::as_bool)?.unwrap_or(default))
    }

    /// Returns a number as an `f32`. A number beyond its range becomes infinite, and the check of the
    /// range refuses it then.
    pub(crate) fn f32(&self, name: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        number(value, &self.path_of(name)).map(Some)
    }

    /// Returns an integer in `min..=max`.
    pub(crate) fn integer(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        integer(value, &self.path_of(name), min, max).map(Some)
    }

    /// Returns an integer in `min..=max` as a `u32`.
    pub(crate) fn count(&self, name: &str, min: u32, max: u32) -> Result<Option<u32>> {
        let given = self.integer(name, min.into(), max.into())?;
        Ok(given.map(|given| u32::try_from(given).expect("between two u32")))
    }

    /// Returns a list of token ids below `vocab`.
    pub(crate) fn token_ids(&self, name: &str, vocab: u32) -> Result<Option<Vec<TokenId>>> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        token_ids(list, &self.path_of(name), vocab).map(Some)
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(wrong_type(&self.path_of(name), expected, value)),
        }
    }
}

fn token_ids(list: &[Value], path: &str, vocab: u32) -> Result<Vec<TokenId>> {
    list.iter()
        .enumerate()
        .map(|(index, value)| {
            // The path is built for the error only: prompts have thousands of ids.
            match value.as_u64() {
                Some(id) if id < u64::from(vocab) => Ok(id as TokenId),
                _ => integer(value, &format!("{path}[{index}]"), 0, i64::from(vocab) - 1)
                    .map(|id| TokenId::try_from(id).expect("below a u32")),
            }
        })
        .collect()
}

/// Returns the number at `path`, infinite if it is beyond the range of an `f32`.
pub(crate) fn number(value: &Value, path: &str) -> Result<f32> {
    let given = value.as_f64().ok_or_else(|| wrong_type(path, "a number", value))?;
    Ok(given as f32)
}

/// Returns the integer at `path`, which must be in `min..=max`.
pub(crate) fn integer(value: &Value, path: &str, min: i64, max: i64) -> Result<i64> {
    if !value.is_number() {
        return Err(wrong_type(path, "an integer", value));
    }
    let integral = value.as_i64().or_else(|| {
        // Beyond 2^53 a float does not identify one integer.
        value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64)
    });
    match integral {
        Some(given) if (min..=max).contains(&given) => Ok(given),
        None if value.as_f64().is_some_and(|given| given.fract() != 0.0) => {
            Err(ApiError::bad_param(path, format!("got {value}, must be an integer")))
        }
        _ => {
            let message = format!("got {value}, must be between {min} and {max}");
            Err(ApiError::bad_param(path, message))
        }
    }
}

pub(crate) fn wrong_type(path: &str, expected: &str, given: &Value) -> ApiError {
    let message = format!("must be {expected}, got {} ({})", kind_of(given), shown(given));
    ApiError::bad_param(path, message)
}

/// Returns a value as JSON, cut to a length fit for a message.
pub(crate) fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused<T>(value: Value, read: impl Fn(&Fields<'_>) -> Result<T>) -> String {
        let object = json!({ "x": value });
        let outer = json!({ "outer": object });
        let fields = Fields::at(&outer["outer"], "outer").expect("an object");
        let Err(error) = read(&fields) else { panic!("must be refused") };
        assert_eq!(error.param.as_deref().map(|param| param.starts_with("outer.x")), Some(true));
        error.message
    }

    #[test]
    fn integral_floats_are_integers_and_null_is_absent() {
        let object = json!({"a": 16.0, "b": null, "c": -0.0});
        let fields = Fields::new(object.as_object().expect("an object"));
        assert_eq!(fields.integer("a", 0, 20), Ok(Some(16)));
        assert_eq!(fields.integer("b", 0, 20), Ok(None));
        assert_eq!(fields.integer("c", 0, 20), Ok(Some(0)));
        assert_eq!(fields.integer("d", 0, 20), Ok(None));
    }

    #[test]
    fn messages_name_path_value_and_range() {
        let integer = |value| refused(value, |f| f.integer("x", 1, 128));
        assert_eq!(integer(json!(16.5)), "outer.x: got 16.5, must be an integer");
        assert_eq!(integer(json!(-1)), "outer.x: got -1, must be between 1 and 128");
        assert_eq!(integer(json!(1e39)), "outer.x: got 1e+39, must be between 1 and 128");
        assert_eq!(
            integer(json!(u64::MAX)),
            format!("outer.x: got {}, must be between 1 and 128", u64::MAX)
        );
        assert_eq!(integer(json!("7")), "outer.x: must be an integer, got a string (\"7\")");
        let float = |value| refused(value, |f| f.f32("x"));
        assert_eq!(float(json!(true)), "outer.x: must be a number, got a boolean (true)");
        let ids = |value| refused(value, |f| f.token_ids("x", 10));
        assert_eq!(ids(json!([1, 10])), "outer.x[1]: got 10, must be between 0 and 9");
        assert_eq!(ids(json!([[1]])), "outer.x[0]: must be an integer, got an array ([1])");
    }

    #[test]
    fn a_long_value_is_not_repeated_whole() {
        let message = refused(json!("é".repeat(1000)), |f| f.flag("x", false));
        assert!(message.len() < 300 && message.contains('…'), "{message}");
    }
}
