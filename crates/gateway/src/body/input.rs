//! The texts and token ids of a body, in the fields `prompt` and `tokens`.

use std::fmt;

use playhouse_types::TokenId;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{PROMPTS_MAX, Parser, ValueSeed};
use crate::error::{ApiError, Result};
use crate::fields::{integer, wrong_type};

/// The value of `prompt` or `tokens`: one text, one list of token ids, or a list of either.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) written: Vec<Written>,
    /// Whether the client sent a list of them.
    pub(crate) is_list: bool,
}

/// A text as the client wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// Parses the field `name`, or an item of its list.
#[derive(Clone, Copy)]
pub(super) struct InputSeed<'a> {
    parser: &'a Parser,
    name: &'static str,
    /// The maximum number of token ids in one list.
    most: usize,
    level: Level,
}

/// Parses a value at its level.
struct ItemSeed<'a>(InputSeed<'a>);

/// The place of a value in its field.
#[derive(Clone, Copy)]
enum Level {
    Field,
    /// An item of the field's list.
    Item(usize),
    /// An item of a list of token ids.
    Token,
}

/// A value of the field, or an item of its list.
enum Item {
    Text(String),
    Token(TokenId),
    Tokens(Vec<TokenId>),
    List(Vec<Written>),
    /// Anything else.
    Other(Value),
}

// === impl Input ===

impl Input {
    /// Returns the text, if the client wrote one.
    pub(crate) fn into_text(mut self) -> Option<String> {
        match self.written.pop() {
            Some(Written::Text(text)) if !self.is_list => Some(text),
            _ => None,
        }
    }

    /// Returns the token ids, if the client wrote one list of them.
    pub(crate) fn into_tokens(mut self) -> Option<Vec<TokenId>> {
        match self.written.pop() {
            None => Some(Vec::new()),
            Some(Written::Tokens(tokens)) if !self.is_list => Some(tokens),
            _ => None,
        }
    }
}

// === impl InputSeed ===

impl<'a> InputSeed<'a> {
    pub(super) fn new(parser: &'a Parser, name: &'static str, most: usize) -> Self {
        Self { parser, name, most, level: Level::Field }
    }

    /// Reads the next value of a list.
    fn next<'de, A: SeqAccess<'de>>(
        self,
        level: Level,
        items: &mut A,
    ) -> Result<Option<Item>, A::Error> {
        items.next_element_seed(ItemSeed(Self { level, ..self }))
    }

    fn path(self, index: usize) -> String {
        match self.level {
            Level::Item(outer) => format!("{}[{outer}][{index}]", self.name),
            _ => format!("{}[{index}]", self.name),
        }
    }

    /// Reads a list of token ids, of which `first` was read before.
    fn tokens<'de, A: SeqAccess<'de>>(
        self,
        first: Option<TokenId>,
        items: &mut A,
    ) -> Result<Vec<TokenId>, A::Error> {
        let mut tokens: Vec<TokenId> = first.into_iter().collect();
        while let Some(item) = self.next(Level::Token, items)? {
            match item {
                Item::Token(token) => tokens.push(token),
                other => return Err(self.no_token(tokens.len(), other.into())),
            }
            if tokens.len() > self.most {
                return Err(self.too_long(tokens.len() + rest(items)?));
            }
        }
        Ok(tokens)
    }

    fn no_token<E: de::Error>(self, index: usize, value: Value) -> E {
        let (path, most) = (self.path(index), i64::from(self.parser.bounds.vocab) - 1);
        let refusal = integer(&value, &path, 0, most).err();
        self.parser.refuse(refusal.unwrap_or_else(|| wrong_type(&path, "a token id", &value)))
    }

    /// Of a list that is too long, only the length matters.
    fn too_long<E: de::Error>(self, length: usize) -> E {
        self.parser.refuse(if self.name == "prompt" {
            ApiError::prompt_too_long(self.most, format_args!("{length} tokens"))
        } else {
            let message = format!("has {length} token ids, must have at most {}", self.most);
            ApiError::bad_param(self.name, message)
        })
    }

    fn wrong_kind<E: de::Error>(self, path: &str, value: Value) -> E {
        self.parser.refuse(wrong_type(path, "a string or a list of token ids", &value))
    }

    /// Reads the list of the field.
    fn list<'de, A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        let mut written = Vec::new();
        while let Some(item) = self.next(Level::Item(written.len()), &mut items)? {
            written.push(match item {
                Item::Text(text) => Written::Text(text),
                Item::Tokens(tokens) => Written::Tokens(tokens),
                Item::Token(first) if written.is_empty() => {
                    return self.tokens(Some(first), &mut items).map(Item::Tokens);
                }
                Item::Other(value) if written.is_empty() && value.is_number() => {
                    return Err(self.no_token(0, value));
                }
                other => return Err(self.wrong_kind(&self.path(written.len()), other.into())),
            });
            if written.len() > PROMPTS_MAX {
                let count = written.len() + rest(&mut items)?;
                let message = format!("has {count} prompts, must have at most {PROMPTS_MAX}");
                return Err(self.parser.refuse(ApiError::bad_param(self.name, message)));
            }
        }
        Ok(Item::List(written))
    }

    fn token(self, value: u64) -> Item {
        match TokenId::try_from(value) {
            Ok(token) if token < self.parser.bounds.vocab => Item::Token(token),
            _ => Item::Other(value.into()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for InputSeed<'_> {
    type Value = Option<Input>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        let (written, is_list) = match ItemSeed(self).deserialize(json)? {
            Item::Text(text) => (vec![Written::Text(text)], false),
            Item::Tokens(tokens) => (vec![Written::Tokens(tokens)], false),
            Item::List(written) => (written, true),
            Item::Other(Value::Null) => return Ok(None),
            other => return Err(self.wrong_kind(self.name, other.into())),
        };
        Ok(Some(Input { written, is_list }))
    }
}

/// Counts the rest of a list.
fn rest<'de, A: SeqAccess<'de>>(items: &mut A) -> Result<usize, A::Error> {
    let mut count = 0;
    while items.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    Ok(count)
}

// === impl Item ===

impl From<Item> for Value {
    fn from(item: Item) -> Self {
        match item {
            Item::Text(text) => text.into(),
            Item::Token(token) => token.into(),
            Item::Tokens(tokens) => tokens.into(),
            Item::List(_) => Self::Array(Vec::new()),
            Item::Other(value) => value,
        }
    }
}

// === impl ItemSeed ===

impl<'de> DeserializeSeed<'de> for ItemSeed<'_> {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Item, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed<'_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of token ids")
    }

    fn visit_unit<E>(self) -> Result<Item, E> {
        Ok(Item::Other(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Item, E> {
        Ok(Item::Other(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Item, E> {
        Ok(Item::Other(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Item, E> {
        Ok(self.0.token(value))
    }

    /// Some clients send an integer as a float, such as `16.0`.
    fn visit_f64<E>(self, value: f64) -> Result<Item, E> {
        let is_id = value.fract() == 0.0 && (0.0..f64::from(TokenId::MAX)).contains(&value);
        Ok(if is_id { self.0.token(value as u64) } else { Item::Other(value.into()) })
    }

    fn visit_str<E>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        match self.0.level {
            Level::Field => self.0.list(items),
            Level::Item(_) => self.0.tokens(None, &mut items).map(Item::Tokens),
            Level::Token => ValueSeed(self.0.parser).visit_seq(items).map(Item::Other),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Item, A::Error> {
        ValueSeed(self.0.parser).visit_map(entries).map(Item::Other)
    }
}
