//! Where the tokens of a prompt stand in its text.

use playhouse_types::TokenId;

use crate::request::Prompt;
use crate::tokenizer::{Detokenizer, Tokenizer};

/// Returns, for each token of the prompt, the number of characters of `text` before it.
///
/// A text that the client wrote has the special tokens that it spells out, and not those that the tokenizer
/// adds around it, such as a BOS; nor the space that some tokenizers put before a word.
pub(super) fn offsets(
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    text: &str,
    skip_special_tokens: bool,
) -> Vec<usize> {
    let is_written = prompt.text.is_some();
    let mut detokenizer = Detokenizer::new(skip_special_tokens && !is_written, true);
    let (mut rest, mut offset) = (text, 0);
    let mut piece = String::new();
    let offset_of = |&token: &TokenId| {
        let before = offset;
        piece.clear();
        if !is_written || !tokenizer.is_special(token) || spells(rest, tokenizer, token) {
            detokenizer.push(tokenizer, token, &mut piece);
        }
        let is_here = |piece: &str| rest.starts_with(piece);
        let piece = match piece.strip_prefix(' ') {
            Some(word) if !is_here(&piece) && is_here(word) => word,
            _ => piece.as_str(),
        };
        let characters = piece.chars().count();
        offset += characters;
        let end = rest.char_indices().nth(characters).map_or(rest.len(), |(end, _)| end);
        rest = &rest[end..];
        before
    };
    prompt.tokens.iter().map(offset_of).collect()
}

/// Returns whether `text` begins with the text of `token`.
fn spells(text: &str, tokenizer: &Tokenizer, token: TokenId) -> bool {
    text.as_bytes().starts_with(tokenizer.token_bytes(token))
}
