//! The text that may be written to a terminal.

use std::io::IsTerminal;

use unicode_width::UnicodeWidthChar;

/// Returns whether `stream` shows colours and they are not turned off (<https://no-color.org>).
pub(crate) fn shows_colour(stream: &impl IsTerminal) -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !plain
}

/// Returns a text from outside with all characters escaped that could steer a terminal or hide: control,
/// format and private characters.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Returns the start of `text` that takes at most `columns` columns of a terminal.
pub(crate) fn start(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, c)| {
        taken += c.width().unwrap_or(0);
        taken > columns
    });
    end.map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_takes_no_more_columns_than_there_are() {
        for (columns, expected) in
            [(0, ""), (1, "a"), (2, "a"), (3, "a節"), (4, "a節b"), (9, "a節b")]
        {
            assert_eq!(start("a節b", columns), expected);
        }
    }

    #[test]
    fn only_what_cannot_be_seen_is_escaped() {
        for plain in ["", "node-a", "it's \"é\" 節 \\n", "cpu:0"] {
            assert_eq!(visible(plain), plain);
        }
        assert_eq!(visible("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\r\\n");
        assert_eq!(
            visible("\u{9b}1m \u{7f} \u{202e}x\u{200b}"),
            "\\u{9b}1m \\u{7f} \\u{202e}x\\u{200b}"
        );
    }
}
