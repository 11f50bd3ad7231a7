//! The source of a template in the dialect of minijinja.
//!
//! - Line ends are line feeds, as Jinja2 makes them.
//! - Strings have Python's escapes, among them the line feed after a backslash, which is nothing.
//! - `{% generation %}` and `{% endgeneration %}`, which only mark text for training, are an `if` that is always
//!   true, so that their whitespace control keeps its meaning.

/// What a tag ends with, by its first two characters.
const TAGS: [(&str, &str); 3] = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")];

/// Returns `source` in the dialect of minijinja.
pub(super) fn translated(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut output = String::with_capacity(source.len());
    let mut rest = &*source;
    while let Some((at, end)) = next_tag(rest) {
        let (text, tag) = rest.split_at(at + 2);
        output.push_str(text);
        rest = match end {
            "#}" => verbatim(&mut output, tag, end),
            "%}" => match name(tag) {
                Some((_, "raw")) => verbatim(&mut output, tag, "endraw"),
                Some((lead, "generation")) => {
                    output.push_str(&tag[..lead]);
                    output.push_str("if true");
                    code(&mut output, &tag[lead + "generation".len()..], end)
                }
                Some((lead, "endgeneration")) => {
                    output.push_str(&tag[..lead]);
                    output.push_str("endif");
                    code(&mut output, &tag[lead + "endgeneration".len()..], end)
                }
                _ => code(&mut output, tag, end),
            },
            _ => code(&mut output, tag, end),
        };
    }
    output + rest
}

/// Returns where the next tag begins, and what ends it.
fn next_tag(text: &str) -> Option<(usize, &'static str)> {
    text.match_indices('{').find_map(|(at, _)| {
        let (_, end) = TAGS.iter().find(|(start, _)| text[at..].starts_with(start))?;
        Some((at, *end))
    })
}

/// Returns the whole name of a statement that has nothing but a name, or is `raw`, with its place.
fn name(tag: &str) -> Option<(usize, &str)> {
    let start = tag.trim_start_matches(['-', '+']).trim_start();
    let lead = tag.len() - start.len();
    let length = start.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let (name, after) = start.split_at(length);
    after.trim_start().trim_start_matches(['-', '+']).starts_with("%}").then_some((lead, name))
}

/// Copies everything up to `end`, and returns what is behind that.
fn verbatim<'a>(output: &mut String, text: &'a str, end: &str) -> &'a str {
    let length = text.find(end).map_or(text.len(), |at| at + end.len());
    output.push_str(&text[..length]);
    &text[length..]
}

/// Copies the code of a tag up to its `end`, with the strings in it translated; returns what is behind that.
fn code<'a>(output: &mut String, text: &'a str, end: &str) -> &'a str {
    let mut rest = text;
    loop {
        let stop = rest.find(['"', '\'']).unwrap_or(rest.len());
        if let Some(at) = rest.find(end).filter(|at| *at <= stop) {
            output.push_str(&rest[..at + end.len()]);
            return &rest[at + end.len()..];
        }
        let Some(quote) = rest[stop..].chars().next() else {
            output.push_str(rest);
            return "";
        };
        output.push_str(&rest[..=stop]);
        rest = string(output, &rest[stop + 1..], quote);
    }
}

/// Copies a string up to its `quote`, and returns what is behind that.
fn string<'a>(output: &mut String, text: &'a str, quote: char) -> &'a str {
    let mut chars = text.chars();
    while let Some(letter) = chars.next() {
        if letter != '\\' {
            output.push(letter);
            if letter == quote {
                break;
            }
            continue;
        }
        match chars.next() {
            Some('\n') | None => {}
            Some('a') => output.push_str("\\x07"),
            Some('v') => output.push_str("\\x0b"),
            // Not an escape in Python.
            Some('/') => output.push_str("\\\\/"),
            Some('U') => match long_escape(chars.as_str()) {
                Some(letter) => {
                    output.push(letter);
                    chars = chars.as_str()[8..].chars();
                }
                None => output.push_str("\\U"),
            },
            Some(letter) => output.extend(['\\', letter]),
        }
    }
    chars.as_str()
}

/// Returns the character of an escape with eight digits.
fn long_escape(text: &str) -> Option<char> {
    char::from_u32(u32::from_str_radix(text.get(..8)?, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_have_the_escapes_of_python() {
        for (source, expected) in [
            (r"{{ '\a\v\/\d\n\'\\' }}", r"{{ '\x07\x0b\\/\d\n\'\\' }}"),
            ("{{ 'one \\\n two' }}", "{{ 'one  two' }}"),
            ("{% if x == \"}}%}\\\n\" %}\\\n{# '\\\n #}", "{% if x == \"}}%}\" %}\\\n{# '\\\n #}"),
            (r"{{ '\U0001f642' ~ '\U' }}", r"{{ '🙂' ~ '\U' }}"),
            ("{% raw %}{{ '\\\n' }}{% endraw %}", "{% raw %}{{ '\\\n' }}{% endraw %}"),
            ("{{ 'open", "{{ 'open"),
            ("{", "{"),
        ] {
            assert_eq!(translated(source), expected, "{source}");
        }
    }

    #[test]
    fn lines_end_with_a_line_feed() {
        assert_eq!(translated("a\r\nb\rc{{ 'd\r\n' }}"), "a\nb\nc{{ 'd\n' }}");
    }

    #[test]
    fn generation_tags_are_conditions() {
        let source = "{%- generation %}{% if generation %}{%+endgeneration -%}{% generation x %}";
        let expected = "{%- if true %}{% if generation %}{%+endif -%}{% generation x %}";
        assert_eq!(translated(source), expected);
    }
}
