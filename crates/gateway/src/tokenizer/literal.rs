//! Texts of which some parts only look like special tokens.
//!
//! - **LIT-1** a special token that is spelled in a marked part of a text is tokenized as the text that it is,
//!   together with the text around it.
//! - **LIT-2** special tokens elsewhere in the text, such as those of a chat template, stay tokens.
//!
//! A mark is a character that the text has nowhere else. It stands within the spelled token, so that no
//! special token is found there, and it is gone before the text is tokenized.

use aho_corasick::{AhoCorasick, MatchKind};
use playhouse_types::TokenId;
use tokenizers::{Model, Normalizer, NormalizerWrapper, OffsetType, PreTokenizer};

use super::{EncodeError, Tokenizer};

/// The first and the last of Unicode's noncharacters, which no text has for a purpose.
const MARKS: [char; 2] = ['\u{FDD0}', '\u{FDEF}'];

/// Returns a finder of the special tokens that are spelled in a text.
pub(super) fn finder(encoder: &tokenizers::Tokenizer) -> Option<AhoCorasick> {
    let added = encoder.get_added_tokens_decoder();
    let special = added.values().filter(|token| token.special && !token.content.is_empty());
    let special: Vec<_> = special.map(|token| token.content.clone()).collect();
    // Without a single one there is nothing to find; too many are refused by the loader.
    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(special).ok()
}

/// Returns a character that no text of `texts` has, to mark parts of them.
pub(crate) fn unused_mark<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Option<char> {
    let [first, last] = MARKS;
    (first..=last).find(|mark| !texts.clone().any(|text| text.contains(*mark)))
}

impl Tokenizer {
    /// Returns whether `text` spells a special token.
    pub(crate) fn spells_special_token(&self, text: &str) -> bool {
        self.special.as_ref().is_some_and(|special| special.is_match(text))
    }

    /// Returns `text` with marks in the special tokens that it spells.
    pub(crate) fn marked(&self, text: &str, mark: char) -> String {
        let mut marked = String::with_capacity(text.len() + 16);
        let mut end = 0;
        for found in self.special.iter().flat_map(|special| special.find_iter(text)) {
            marked.push_str(&text[end..found.start()]);
            // After each character: another token may begin within this one.
            for character in text[found.range()].chars() {
                marked.extend([character, mark]);
            }
            end = found.end();
        }
        marked.push_str(&text[end..]);
        marked
    }

    /// Returns the tokens of a text with marks (**LIT-1**, **LIT-2**), without the marks.
    ///
    /// # Errors
    /// Returns an [`EncodeError`] when the model cannot express the text.
    pub(crate) fn encode_marked(
        &self,
        text: &str,
        mark: char,
        add_special_tokens: bool,
    ) -> Result<Vec<TokenId>, EncodeError> {
        self.try_encode_marked(text, mark, add_special_tokens)
            .map_err(|error| EncodeError(error.to_string()))
    }

    /// Takes the steps of `tokenizers::Tokenizer::encode_fast`, with one more: when special tokens have been
    /// found, and before anything looks at the rest, the marks are removed.
    fn try_encode_marked(
        &self,
        text: &str,
        mark: char,
        add_special_tokens: bool,
    ) -> tokenizers::Result<Vec<TokenId>> {
        let Self { encoder, .. } = self;
        let added = encoder.get_added_vocabulary();
        let mut parts = added.extract_and_normalize(None::<&NormalizerWrapper>, text);
        parts.split(|_, mut part| {
            part.filter(|character| character != mark);
            Ok([part])
        })?;
        if let Some(normalizer) = encoder.get_normalizer() {
            parts.normalize(|part| normalizer.normalize(part))?;
        }
        if let Some(pre_tokenizer) = encoder.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut parts)?;
        }
        parts.tokenize(|part| encoder.get_model().tokenize(part.get()))?;
        let encoding = parts.into_encoding(None, 0, OffsetType::None)?;
        let encoding = encoder.post_process(encoding, None, add_special_tokens)?;
        Ok(encoding.get_ids().to_vec())
    }
}
