//! What may be written to a terminal.

use std::io::IsTerminal;

/// Whether `stream` shows colours and nobody asked for none (<https://no-color.org>).
pub(crate) fn shows_colour(stream: &impl IsTerminal) -> bool {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !plain
}

/// Words of somebody else with everything escaped that could steer a terminal or hide: control,
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

#[cfg(test)]
mod tests {
    use super::*;

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
