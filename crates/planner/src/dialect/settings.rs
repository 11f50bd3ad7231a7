//! The settings of a command: keys, values, and the words in which they were given.

use std::collections::BTreeMap;

use super::Key;
use super::value::Value;

/// One setting as it was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    /// The flag in the words of the command.
    pub(super) spelling: String,
    pub(super) value: Value,
    /// A later layer wins over an earlier one; within a layer, two values contradict each other.
    pub(super) layer: u8,
}

/// Everything that a command sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    given: BTreeMap<Key, Given>,
}

// === impl Settings ===

impl Settings {
    pub(super) fn get(&self, key: Key) -> Option<&Given> {
        self.given.get(&key)
    }

    /// Returns every setting that is given.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Given)> {
        self.given.iter().map(|(key, given)| (*key, given))
    }

    pub(super) fn insert(&mut self, key: Key, given: Given) {
        self.given.insert(key, given);
    }

    /// Sets a value that is to be written.
    pub(super) fn set(&mut self, key: Key, value: Value) {
        self.insert(key, Given { spelling: String::new(), value, layer: 0 });
    }

    /// Returns the size of `key`; `None` where it is not given, or left to the engine.
    pub(super) fn size(&self, key: Key) -> Option<u32> {
        match self.get(key)?.value {
            Value::Size(size) => Some(size),
            _ => None,
        }
    }

    pub(super) fn tokens(&self, key: Key) -> Option<u64> {
        match self.get(key)?.value {
            Value::Tokens(tokens) => Some(tokens),
            _ => None,
        }
    }

    pub(super) fn fraction(&self, key: Key) -> Option<f64> {
        match self.get(key)?.value {
            Value::Fraction(share) => Some(share),
            _ => None,
        }
    }

    pub(super) fn sizes(&self, key: Key) -> Option<&[u32]> {
        match &self.get(key)?.value {
            Value::Sizes(sizes) => Some(sizes),
            _ => None,
        }
    }

    /// Returns whether the switch `key` is given and on.
    pub(super) fn on(&self, key: Key) -> bool {
        matches!(self.get(key), Some(Given { value: Value::Switch(true), .. }))
    }

    pub(super) fn text(&self, key: Key) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the words in which `key` was given.
    pub(super) fn spelling(&self, key: Key) -> &str {
        self.get(key).map_or("", |given| given.spelling.as_str())
    }
}
