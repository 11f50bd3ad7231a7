//! The bytes of every token, computed once from the decoder's description.

use playhouse_types::TokenId;
use serde::Deserialize;

use super::TokenizerError;

/// The first id that is refused: a table of all ids must fit in memory.
pub(super) const IDS_MAX: u32 = 1 << 22;

/// A table from token id to bytes.
pub(super) struct Pieces {
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// The end of each token's bytes.
    ends: Vec<usize>,
    special: Vec<bool>,
    /// The part that the beginning of a text loses.
    pub(super) start: Start,
}

/// The part that the decoder removes at the very beginning of a text (SentencePiece puts a space there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Keep,
    /// Up to this many spaces.
    Spaces(usize),
    /// Every space of the first token.
    FirstToken,
}

/// The `decoder` of a `tokenizer.json`, or a part of it.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Step {
    ByteLevel {},
    ByteFallback {},
    Fuse {},
    Replace { pattern: Pattern, content: String },
    Strip { content: char, start: usize, stop: usize },
    Metaspace { replacement: char, prepend_scheme: String },
    Sequence { decoders: Vec<Step> },
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

/// A token on its way through the steps of the decoder.
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

// === impl Pieces ===

impl Pieces {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let json = serde_json::to_value(tokenizer.get_decoder())
            .map_err(|error| TokenizerError::Decoder(error.to_string()))?;
        let decoder: Step = serde_json::from_value(json)
            .map_err(|error| TokenizerError::Decoder(error.to_string()))?;
        let mut steps = Vec::new();
        decoder.flatten(&mut steps);
        let start = start_of(&steps)?;

        // Added tokens hide tokens of the model with the same id, as in decoding.
        let added = tokenizer.get_added_tokens_decoder();
        let vocabulary = tokenizer.get_added_vocabulary();
        let mut tokens: Vec<(TokenId, String)> = tokenizer
            .get_vocab(false)
            .into_iter()
            .filter(|(_, id)| !added.contains_key(id))
            .map(|(token, id)| (id, token))
            .chain(added.iter().map(|(&id, token)| (id, token.content.clone())))
            .collect();
        tokens.sort_unstable();
        tokens.dedup_by_key(|(id, _)| *id);
        if let Some((id, token)) = tokens.pop_if(|(id, _)| *id >= IDS_MAX) {
            return Err(TokenizerError::IdTooLarge { token, id });
        }

        let mut pieces = Self { bytes: Vec::new(), ends: Vec::new(), special: Vec::new(), start };
        for (id, token) in tokens {
            // Ids may have gaps, which stand for nothing.
            pieces.ends.resize(id as usize, pieces.bytes.len());
            pieces.special.resize(id as usize, false);
            pieces.bytes.extend(decode(token, &steps));
            pieces.ends.push(pieces.bytes.len());
            let added = added.get(&id);
            pieces
                .special
                .push(added.is_some_and(|token| vocabulary.is_special_token(&token.content)));
        }
        Ok(pieces)
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.ends.len()).expect("ids are below IDS_MAX")
    }

    pub(super) fn bytes(&self, token: TokenId) -> &[u8] {
        let index = token as usize;
        let Some(&end) = self.ends.get(index) else { return &[] };
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..end]
    }

    /// Returns the number of bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        (0..self.len()).map(|token| self.bytes(token).len()).max().unwrap_or(0)
    }

    /// Returns whether every byte that occurs in UTF-8 has a token, so that no text is lost or unknown.
    pub(super) fn cover_utf8(&self) -> bool {
        let mut covered = [false; 256];
        for token in 0..self.len() {
            if let [byte] = self.bytes(token) {
                covered[usize::from(*byte)] = true;
            }
        }
        let occurs = |byte: u8| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        (0..=u8::MAX).all(|byte| covered[usize::from(byte)] || !occurs(byte))
    }

    pub(super) fn is_special(&self, token: TokenId) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }
}

// === impl Step ===

impl Step {
    fn flatten(self, into: &mut Vec<Self>) {
        match self {
            Self::Sequence { decoders } => {
                decoders.into_iter().for_each(|step| step.flatten(into));
            }
            step => into.push(step),
        }
    }
}

fn start_of(steps: &[Step]) -> Result<Start, TokenizerError> {
    let mut start = Start::Keep;
    for step in steps {
        match step {
            Step::Strip { content: ' ', start: spaces, stop: 0 } => start = Start::Spaces(*spaces),
            Step::Strip { content, start, stop } => {
                let what =
                    format!("Strip {{ content: {content:?}, start: {start}, stop: {stop} }}");
                return Err(TokenizerError::Decoder(what));
            }
            Step::Metaspace { prepend_scheme, .. } if prepend_scheme != "never" => {
                start = Start::FirstToken;
            }
            Step::Replace { pattern: Pattern::Regex(regex), .. } => {
                return Err(TokenizerError::Decoder(format!("Replace with the regex {regex:?}")));
            }
            _ => {}
        }
    }
    Ok(start)
}

fn decode(token: String, steps: &[Step]) -> Vec<u8> {
    let piece = steps.iter().fold(Piece::Text(token), |piece, step| match (piece, step) {
        (Piece::Text(text), Step::ByteLevel {}) => {
            let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
            Piece::Bytes(bytes.unwrap_or_else(|| text.into_bytes()))
        }
        (Piece::Text(text), Step::ByteFallback {}) => match fallback_byte(&text) {
            Some(byte) => Piece::Bytes(vec![byte]),
            None => Piece::Text(text),
        },
        (Piece::Text(text), Step::Replace { pattern: Pattern::String(from), content }) => {
            Piece::Text(text.replace(from, content))
        }
        (Piece::Text(text), Step::Metaspace { replacement, .. }) => {
            Piece::Text(text.replace(*replacement, " "))
        }
        (piece, _) => piece,
    });
    match piece {
        Piece::Text(text) => text.into_bytes(),
        Piece::Bytes(bytes) => bytes,
    }
}

/// Returns the byte of a token such as `<0x0A>`, which is the byte 10.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Returns the byte of a character by the inverse of GPT-2's `bytes_to_unicode`: printable bytes are
/// themselves, the others, in order, are the characters from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => printable(byte).then_some(byte),
        Err(_) => {
            (0..=u8::MAX).filter(|&byte| !printable(byte)).nth(usize::try_from(code - 0x100).ok()?)
        }
    }
}
