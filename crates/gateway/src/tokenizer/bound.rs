//! The bound on the bytes of a text that become one token.

use tokenizers::normalizers::{NormalizerWrapper, Replace};

use super::pieces::Pieces;

/// The factor by which Unicode's normalization forms shorten a text at most, in UTF-8: a mathematical letter
/// of four bytes becomes a plain one of one byte.
const UNICODE_FACTOR: usize = 4;

/// Returns the maximum number of bytes of a text that become one token. There is none if the tokenizer drops
/// parts of a text, or has one token for whatever it does not know.
pub(super) fn bytes_per_token_max(
    encoder: &tokenizers::Tokenizer,
    pieces: &Pieces,
) -> Option<usize> {
    let swallows_spaces =
        encoder.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip);
    if swallows_spaces || !pieces.cover_utf8() {
        return None;
    }
    let factor = encoder.get_normalizer().map_or(Some(1), factor)?;
    Some(pieces.longest() * factor)
}

/// Returns the factor by which a normalizer shortens a text at most, if that is known.
fn factor(normalizer: &NormalizerWrapper) -> Option<usize> {
    match normalizer {
        NormalizerWrapper::NFC(_)
        | NormalizerWrapper::NFD(_)
        | NormalizerWrapper::NFKC(_)
        | NormalizerWrapper::NFKD(_) => Some(UNICODE_FACTOR),
        NormalizerWrapper::Prepend(_) | NormalizerWrapper::ByteLevel(_) => Some(1),
        NormalizerWrapper::Replace(replace) => grows(replace).then_some(1),
        NormalizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().map(factor).try_fold(1, |all, one| Some(all * one?))
        }
        _ => None,
    }
}

/// Returns whether a replacement is no shorter than what it replaces.
fn grows(replace: &Replace) -> bool {
    let json = serde_json::to_value(replace).unwrap_or_default();
    json["pattern"]["String"].as_str().is_some_and(|from| from.len() <= replace.content.len())
}
