//! The arguments of a `Mapping`, as written in Python or on a command line.

/// The text before the arguments.
const CALL: &str = "Mapping(";

/// Returns whether a word is `name=value`, or belongs to the text around such pairs.
pub(super) fn is_pair(word: &str) -> bool {
    word.contains('=') || word == CALL || word == ")"
}

/// Returns whether a list or a table continues in the next word.
pub(super) fn is_open(text: &str) -> bool {
    text.matches(['[', '{']).count() > text.matches([']', '}']).count()
}

/// Splits text into pairs, at the commas outside lists and tables.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    let inside = text.strip_prefix(CALL).unwrap_or(text).trim_end().trim_end_matches(')');
    let pairs = inside.split(move |letter| {
        match letter {
            '[' | '{' => depth = depth.saturating_add(1),
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    pairs.map(str::trim).filter(|pair| !pair.is_empty())
}
