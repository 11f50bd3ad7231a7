//! Decoding of tokens to text, one at a time.

use playhouse_types::TokenId;

use super::Tokenizer;
use super::pieces::Start;

/// The maximum length of an unfinished code point: UTF-8 needs at most four bytes.
const PENDING_MAX: usize = 3;

/// A decoder for the text of one sequence while it grows (**TOK-1**, **TOK-2**).
#[derive(Clone, Debug)]
pub struct Detokenizer {
    skip_special_tokens: bool,
    /// Whether no text was emitted yet, so that leading spaces may still be removed.
    at_start: bool,
    stripped: usize,
    /// The bytes of a code point whose end has not come.
    pending: [u8; PENDING_MAX],
    pending_len: usize,
}

// === impl Detokenizer ===

impl Detokenizer {
    /// Returns a decoder for a text that begins here (`at_start`), or continues one. Only at its start
    /// does a text lose the space that SentencePiece put there.
    #[must_use]
    pub fn new(skip_special_tokens: bool, at_start: bool) -> Self {
        Self {
            skip_special_tokens,
            at_start,
            stripped: 0,
            pending: [0; PENDING_MAX],
            pending_len: 0,
        }
    }

    /// Appends to `text` the text that `token` completes.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: TokenId, text: &mut String) {
        if self.skip_special_tokens && tokenizer.is_special(token) {
            return;
        }
        let bytes = tokenizer.token_bytes(token);
        if self.at_start {
            return self.push_first(tokenizer.pieces.start, bytes, text);
        }
        self.push_bytes(bytes, text);
    }

    /// Ends the text: bytes of an unfinished code point become one U+FFFD.
    pub fn finish(&mut self, text: &mut String) {
        if std::mem::take(&mut self.pending_len) > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn push_first(&mut self, start: Start, bytes: &[u8], text: &mut String) {
        match start {
            Start::Keep => self.at_start = false,
            Start::FirstToken => {
                self.at_start = false;
                let kept: Vec<u8> = bytes.iter().copied().filter(|&byte| byte != b' ').collect();
                return self.push_bytes(&kept, text);
            }
            Start::Spaces(most) => {
                let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
                let cut = spaces.min(most - self.stripped);
                self.stripped += cut;
                self.at_start = cut == bytes.len() && self.stripped < most;
                return self.push_bytes(&bytes[cut..], text);
            }
        }
        self.push_bytes(bytes, text);
    }

    fn push_bytes(&mut self, bytes: &[u8], text: &mut String) {
        if self.pending_len > 0 {
            let joined = [&self.pending[..self.pending_len], bytes].concat();
            self.pending_len = 0;
            return self.push_whole(&joined, text);
        }
        self.push_whole(bytes, text);
    }

    /// Appends the code points in `bytes`, and keeps an unfinished code point at their end.
    fn push_whole(&mut self, mut bytes: &[u8], text: &mut String) {
        loop {
            let error = match std::str::from_utf8(bytes) {
                Ok(valid) => return text.push_str(valid),
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
            let Some(invalid) = error.error_len() else {
                self.pending[..rest.len()].copy_from_slice(rest);
                self.pending_len = rest.len();
                return;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            bytes = &rest[invalid..];
        }
    }
}
