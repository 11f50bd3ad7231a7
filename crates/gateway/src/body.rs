//! A parser of request bodies as JSON, stricter than `serde_json`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};
use crate::json::kind_of;

/// A value whose objects have no key twice: of two values, it is unknown which one the client means.
struct Strict(Value);

struct StrictVisitor;

/// Parses a request body. `serde_json` bounds its depth (128).
///
/// # Errors
/// Returns 400 for anything but one JSON object in UTF-8: syntax, depth, lone surrogates, duplicate keys.
pub(crate) fn parse_object(body: &[u8]) -> Result<Map<String, Value>> {
    let Strict(value) = serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_request(format!("the body is not valid JSON: {error}"))
            .with_code("invalid_json")
    })?;
    match value {
        Value::Object(object) => Ok(object),
        other => Err(ApiError::bad_request(format!(
            "the body must be a JSON object, got {}",
            kind_of(&other)
        ))),
    }
}

// === impl Strict ===

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("key {key:?} appears twice")));
            }
            let Strict(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &[u8]) -> String {
        parse_object(body).expect_err("must be refused").message
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        assert!(refused(b"").contains("EOF"));
        assert!(refused(b"{").contains("EOF"));
        assert!(refused(b"{} x").contains("trailing"));
        assert!(refused(b"[]").contains("got an array"));
        assert!(refused(b"{\"a\":1,\"b\":{\"c\":1,\"c\":2}}").contains("\"c\" appears twice"));
        assert!(
            refused(br#"{"a":"\ud800"}"#).contains("surrogate")
                || refused(br#"{"a":"\ud800"}"#).contains("hex escape")
        );
        assert!(refused(b"{\"a\":\"\xff\"}").contains("unicode"));
        assert!(refused(b"{\"a\":NaN}").contains("expected"));
        assert!(refused(b"{\"a\":1e999}").contains("out of range"));
        let deep = [b"{\"a\":".as_slice(), &[b'['; 200], &[b']'; 200], b"}"].concat();
        assert!(refused(&deep).contains("recursion limit"));
    }

    #[test]
    fn objects_keep_their_order() {
        let object = parse_object(br#"{"z":1,"a":[true,null,-1,2.5,"s"]}"#).expect("valid");
        assert_eq!(Value::Object(object).to_string(), r#"{"z":1,"a":[true,null,-1,2.5,"s"]}"#);
    }
}
