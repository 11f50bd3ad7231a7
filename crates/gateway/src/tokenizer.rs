//! Text to tokens and back.
//!
//! - **TOK-1** every token stands for fixed bytes, so text is decoded token by token: the joined pieces
//!   of a [`Detokenizer`] are the decoding of the whole, at a cost proportional to the token's own
//!   length.
//! - **TOK-2** only whole code points are emitted; bytes that cannot become a code point are U+FFFD, by
//!   the rule of [`String::from_utf8_lossy`] (Unicode's "maximal subpart").
//! - **TOK-3** a hostile `tokenizer.json` is an error: the loader's panics are caught, and ids are
//!   bounded before a table is sized by them.
//! - **TOK-4** the added and special tokens are those of transformers, whichever file names them.
//!
//! Supported are decoders whose tokens are bytes: byte-level BPE (Llama 3, Qwen, GPT-2) and SentencePiece
//! pieces with byte fallback (Llama 2, Mistral). Others (`WordPiece`, `CTC`) are refused at load. One
//! difference from `tokenizers` is intended: a run of fallback bytes that is only partly valid keeps its
//! valid characters, where `tokenizers` replaces the whole run, which no streaming decoder can do.

mod added;
mod bound;
mod detokenizer;
mod literal;
mod pieces;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aho_corasick::AhoCorasick;
use playhouse_types::TokenId;

use added::NamedTokens;
pub use added::TokenizerFiles;
pub use detokenizer::Detokenizer;
pub(crate) use literal::unused_mark;
use pieces::Pieces;

/// A tokenizer, loaded from a model's `tokenizer.json` and the files beside it.
pub struct Tokenizer {
    encoder: tokenizers::Tokenizer,
    pieces: Pieces,
    /// The texts of the special tokens that have names.
    special_tokens: BTreeMap<String, String>,
    bytes_per_token_max: Option<usize>,
    /// The special tokens, to find where a text spells them.
    special: Option<AhoCorasick>,
}

/// The reason why the files of a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The loader does not understand the file.
    #[error("tokenizer.json: {0}")]
    Malformed(String),
    /// The loader panicked, which happens on some inconsistent files.
    #[error("tokenizer.json is inconsistent: the loader panicked: {0}")]
    Inconsistent(String),
    /// A file beside `tokenizer.json` is malformed.
    #[error("{file}: {reason}")]
    Beside {
        /// The file.
        file: &'static str,
        /// The key, and what is expected.
        reason: String,
    },
    /// The tokens do not stand for fixed bytes.
    #[error(
        "tokenizer.json: decoder: {0}; supported are ByteLevel, Metaspace, and sequences of \
         Replace, ByteFallback, Fuse and Strip (at the start)"
    )]
    Decoder(String),
    /// An id is too large.
    #[error("tokenizer.json: token {token:?} has id {id}, must be below {}", pieces::IDS_MAX)]
    IdTooLarge {
        /// The token's text in the file.
        token: String,
        /// Its id.
        id: TokenId,
    },
}

/// A text could not be encoded (the model has no token for it, and no unknown token).
#[derive(Debug, thiserror::Error)]
#[error("cannot tokenize the text: {0}")]
pub struct EncodeError(String);

// === impl Tokenizer ===

impl Tokenizer {
    /// Reads the content of a `tokenizer.json` without files beside it.
    ///
    /// # Errors
    /// Returns a [`TokenizerError`] for every file that cannot be used (**TOK-3**).
    pub fn from_bytes(file: &[u8]) -> Result<Self, TokenizerError> {
        Self::from_files(&TokenizerFiles { tokenizer: file, ..TokenizerFiles::default() })
    }

    /// Reads the content of a tokenizer's files (**TOK-4**). Settings for truncation and padding are dropped,
    /// because they are for batches in training.
    ///
    /// # Errors
    /// Returns a [`TokenizerError`] for every file that cannot be used (**TOK-3**).
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self, TokenizerError> {
        let named = NamedTokens::read(files)?;
        let special_tokens = named.texts.clone();
        let load = || {
            let malformed = |error: tokenizers::Error| TokenizerError::Malformed(error.to_string());
            let mut encoder =
                tokenizers::Tokenizer::from_bytes(files.tokenizer).map_err(malformed)?;
            encoder.with_padding(None);
            encoder.with_truncation(None).map_err(malformed)?;
            named.add_to(&mut encoder)?;
            let pieces = Pieces::of(&encoder)?;
            let bytes_per_token_max = bound::bytes_per_token_max(&encoder, &pieces);
            let special = literal::finder(&encoder);
            Ok(Self { encoder, pieces, special_tokens, bytes_per_token_max, special })
        };
        catch_unwind(AssertUnwindSafe(load))
            .map_err(|panic| TokenizerError::Inconsistent(panic_text(&*panic)))?
    }

    /// Returns the end-of-sequence token that the files of the tokenizer name.
    #[must_use]
    pub fn eos(&self) -> Option<TokenId> {
        self.encoder.token_to_id(self.special_tokens.get("eos_token")?)
    }

    /// Returns the texts of the special tokens that have names, such as `eos_token`.
    #[must_use]
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Returns the tokens of `text`. Special tokens spelled out in the text are recognised;
    /// `add_special_tokens` adds the tokens that the model expects around a text, such as a BOS.
    ///
    /// # Errors
    /// Returns an [`EncodeError`] when the model cannot express the text.
    pub fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<TokenId>, EncodeError> {
        self.encoder
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| EncodeError(error.to_string()))
    }

    /// Decodes `tokens` as the beginning of a text. Ids without a token stand for nothing.
    #[must_use]
    pub fn decode(&self, tokens: &[TokenId], skip_special_tokens: bool) -> String {
        let mut text = String::new();
        let mut detokenizer = Detokenizer::new(skip_special_tokens, true);
        for &token in tokens {
            detokenizer.push(self, token, &mut text);
        }
        detokenizer.finish(&mut text);
        text
    }

    /// Returns the exact bytes that `token` stands for; empty for an id without a token.
    #[must_use]
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.pieces.bytes(token)
    }

    /// Returns the text of a single token, with U+FFFD for bytes that are not UTF-8.
    #[must_use]
    pub fn token_text(&self, token: TokenId) -> Cow<'_, str> {
        String::from_utf8_lossy(self.token_bytes(token))
    }

    /// Returns whether `token` is a control token rather than text.
    #[must_use]
    pub fn is_special(&self, token: TokenId) -> bool {
        self.pieces.is_special(token)
    }

    /// Returns the maximum number of bytes of a text that become one token; `None` if there is no such
    /// maximum.
    #[must_use]
    pub fn bytes_per_token_max(&self) -> Option<usize> {
        self.bytes_per_token_max
    }

    /// Returns the size of the vocabulary: one more than the largest token id.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        self.pieces.len()
    }
}

/// Returns the message of a caught panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
