//! Writing JSON, and the names of its types.

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde_json::Value;

/// Returns the JSON type of a value, with an article.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Appends `value` as JSON.
pub(crate) fn write(out: &mut BytesMut, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out.writer(), value).expect("keys are strings, and a buffer grows");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn written_strings_read_back(text: String) {
            let mut out = BytesMut::new();
            write(&mut out, &text);
            let read: String = serde_json::from_slice(&out).expect("valid JSON");
            prop_assert_eq!(read, text);
        }
    }
}
