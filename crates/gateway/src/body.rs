//! A parser of request bodies as JSON, stricter than `serde_json`, and bounded in memory.
//!
//! - **BOD-1** a parsed body occupies little more memory than the body: token ids take four bytes each, no
//!   list of them is longer than its bound, and the number of other values is bounded ([`VALUES_MAX`]).
//! - **BOD-2** no object has a key twice: of two values, it is unknown which one the client means.

mod input;

use std::cell::{Cell, RefCell};
use std::fmt;

use playhouse_types::TokenId;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

use input::InputSeed;
pub(crate) use input::{Input, Written};

/// The maximum number of values in a body, without those of its [`Input`]: a value takes up to a hundred
/// bytes, and two in the body.
pub(crate) const VALUES_MAX: usize = 1 << 18;

/// The maximum number of prompts in a body.
pub(crate) const PROMPTS_MAX: usize = 1024;

/// The bounds on the token ids in a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputBounds {
    /// The size of the vocabulary: all ids are below it.
    pub(crate) vocab: TokenId,
    /// The maximum number of tokens of a prompt.
    pub(crate) context: usize,
    /// The maximum number of tokens in `tokens`.
    pub(crate) tokens: usize,
}

/// A parsed body.
#[derive(Debug)]
pub(crate) struct Object {
    /// Its fields, without `prompt` and `tokens`.
    pub(crate) fields: Map<String, Value>,
    pub(crate) prompt: Option<Input>,
    pub(crate) tokens: Option<Input>,
}

/// The state of a parser: what is left of its bounds, and why it failed.
struct Parser {
    bounds: InputBounds,
    values_left: Cell<usize>,
    /// The error that ended the parsing, if it is about the meaning of the JSON.
    refusal: RefCell<Option<ApiError>>,
}

/// Parses one object, the body.
struct ObjectSeed<'a>(&'a Parser);

/// Parses any value.
#[derive(Clone, Copy)]
struct ValueSeed<'a>(&'a Parser);

/// Parses a request body. `serde_json` bounds its depth (128).
///
/// # Errors
/// Returns 400 for anything but one JSON object in UTF-8 within its bounds: syntax, depth, lone surrogates,
/// duplicate keys, too many values, token ids that are none.
pub(crate) fn parse_object(body: &[u8], bounds: &InputBounds) -> Result<Object> {
    let parser =
        Parser { bounds: *bounds, values_left: Cell::new(VALUES_MAX), refusal: RefCell::new(None) };
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = ObjectSeed(&parser).deserialize(&mut json);
    let parsed = parsed.and_then(|object| json.end().map(|()| object));
    parsed.map_err(|error| {
        parser.refusal.take().unwrap_or_else(|| {
            ApiError::bad_request(format!("the body is not valid JSON: {error}"))
                .with_code("invalid_json")
        })
    })
}

// === impl Parser ===

impl Parser {
    /// Ends the parsing with `refusal`.
    fn refuse<E: de::Error>(&self, refusal: ApiError) -> E {
        let error = E::custom(&refusal.message);
        self.refusal.replace(Some(refusal));
        error
    }

    /// Counts one more value.
    fn count<E: de::Error>(&self) -> Result<(), E> {
        let Some(left) = self.values_left.get().checked_sub(1) else {
            let message = format!("the body has more than {VALUES_MAX} values");
            let refusal = ApiError::bad_request(message).with_code("too_many_values");
            return Err(self.refuse(refusal));
        };
        self.values_left.set(left);
        Ok(())
    }

    /// Reads the next key of an object, which must not be in `object` yet.
    fn next_key<'de, A: MapAccess<'de>>(
        &self,
        entries: &mut A,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, A::Error> {
        let Some(key) = entries.next_key::<String>()? else { return Ok(None) };
        if is_known(&key) {
            return Err(de::Error::custom(format_args!("key {key:?} appears twice")));
        }
        Ok(Some(key))
    }
}

// === impl ObjectSeed ===

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Object, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object, A::Error> {
        let Self(parser) = self;
        let mut fields = Map::new();
        let (mut prompt, mut tokens) = (None, None);
        loop {
            let is_known = |key: &str| match key {
                "prompt" => prompt.is_some(),
                "tokens" => tokens.is_some(),
                key => fields.contains_key(key),
            };
            let Some(key) = parser.next_key(&mut entries, is_known)? else { break };
            match &*key {
                "prompt" => {
                    let most = parser.bounds.context;
                    prompt = Some(entries.next_value_seed(InputSeed::new(parser, "prompt", most))?);
                }
                "tokens" => {
                    let most = parser.bounds.tokens;
                    tokens = Some(entries.next_value_seed(InputSeed::new(parser, "tokens", most))?);
                }
                _ => {
                    let value = entries.next_value_seed(ValueSeed(parser))?;
                    fields.insert(key, value);
                }
            }
        }
        Ok(Object { fields, prompt: prompt.flatten(), tokens: tokens.flatten() })
    }
}

// === impl ValueSeed ===

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.0.count::<D::Error>()?;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
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
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = self.0.next_key(&mut entries, |key| object.contains_key(key))? {
            let value = entries.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: InputBounds = InputBounds { vocab: 100, context: 8, tokens: 9 };

    fn parse(body: &str) -> Object {
        parse_object(body.as_bytes(), &BOUNDS).expect("valid")
    }

    fn refused(body: &[u8]) -> String {
        parse_object(body, &BOUNDS).expect_err("must be refused").message
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        assert!(refused(b"").contains("EOF"));
        assert!(refused(b"{").contains("EOF"));
        assert!(refused(b"{} x").contains("trailing"));
        assert!(refused(b"[]").contains("expected a JSON object"));
        assert!(refused(b"{\"a\":1,\"b\":{\"c\":1,\"c\":2}}").contains("\"c\" appears twice"));
        assert!(
            refused(b"{\"prompt\":null,\"prompt\":\"a\"}").contains("\"prompt\" appears twice")
        );
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
        let object = parse(r#"{"z":1,"a":[true,null,-1,2.5,"s"]}"#);
        let text = Value::Object(object.fields).to_string();
        assert_eq!(text, r#"{"z":1,"a":[true,null,-1,2.5,"s"]}"#);
    }

    /// **BOD-1**
    #[test]
    fn the_number_of_values_is_bounded() {
        let list = |count: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(count - 1));
        assert_eq!(
            parse(&list(VALUES_MAX - 1)).fields["a"].as_array().map(Vec::len),
            Some((1 << 18) - 1)
        );
        assert!(refused(list(VALUES_MAX).as_bytes()).contains("more than 262144 values"));
        let nested = format!("{{\"a\":[{}{{}}]}}", "{\"b\":0},".repeat(VALUES_MAX / 2));
        assert!(refused(nested.as_bytes()).contains("more than 262144 values"));
    }
}
