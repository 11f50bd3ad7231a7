//! The `tojson` filter in Python's spelling: `json.dumps(value, ensure_ascii=False)`, with spaces
//! after `,` and `:`, and nothing escaped for HTML. Models were trained on that text.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Separators and indentation, as in `json.dumps`.
struct Python {
    item: String,
    key: String,
    indent: Option<usize>,
    depth: usize,
    has_items: bool,
}

/// The filter `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ensure_ascii = match ensure_ascii {
        Some(ensure_ascii) => ensure_ascii,
        None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let sort_keys: bool = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;

    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(failed("separators must be a pair")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort_keys {
        json.sort_all_objects();
    }
    let mut output = Vec::new();
    let formatter =
        Python { item, key, indent: indent.map(|n| n.min(16)), depth: 0, has_items: false };
    json.serialize(&mut Serializer::with_formatter(&mut output, formatter)).map_err(failed)?;
    let text = String::from_utf8(output).map_err(failed)?;
    Ok(if ensure_ascii { ascii(&text) } else { text })
}

fn failed(error: impl ToString) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", error.to_string()))
}

/// Escapes all but ASCII. Outside strings JSON is ASCII, so every other character may be escaped in
/// place.
fn ascii(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            output.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            output += &format!("\\u{unit:04x}");
        }
    }
    output
}

// === impl Python ===

impl Python {
    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        if let Some(indent) = self.indent {
            write!(writer, "\n{:1$}", "", indent * self.depth)?;
        }
        Ok(())
    }

    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_items {
            self.line(writer)?;
        }
        self.has_items = true;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.has_items = true;
        self.line(writer)
    }
}

impl Formatter for Python {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(super::python::float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, RenderChat, RenderOptions};

    fn render(expression: &str) -> String {
        let template = ChatTemplate::new(expression.into()).expect("compiles");
        template.render(&[], &RenderOptions::default()).expect("renders")
    }

    #[test]
    fn the_text_is_that_of_json_dumps() {
        let value = r#"{'b': [1, 2.5, none, true], 'a': '<é"\n你>', 'e': [], 'o': {}}"#;
        assert_eq!(
            render(&format!("{{{{ {value} | tojson }}}}")),
            r#"{"b": [1, 2.5, null, true], "a": "<é\"\n你>", "e": [], "o": {}}"#
        );
        assert_eq!(
            render(&format!("{{{{ {value} | tojson(sort_keys=true, separators=(',', ':')) }}}}")),
            r#"{"a":"<é\"\n你>","b":[1,2.5,null,true],"e":[],"o":{}}"#
        );
        assert_eq!(render("{{ 'é🙂' | tojson(ensure_ascii=true) }}"), r#""\u00e9\ud83d\ude42""#);
    }

    #[test]
    fn indentation_is_that_of_json_dumps() {
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}";
        assert_eq!(render("{{ {'a': [1, {'b': []}], 'c': {}} | tojson(indent=2) }}"), expected);
    }
}
