//! Log-probabilities in an answer.

use std::borrow::Cow;

use playhouse_types::TokenId;
use serde::{Serialize, Serializer};

use crate::choice::{Entry, Setting};
use crate::request::Shape;
use crate::tokenizer::Tokenizer;

/// The number that vLLM writes for minus infinity, which JSON does not have.
const LOGPROB_MIN: f32 = -9999.0;

/// The log-probabilities of a choice, in the shape of its API.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Logprobs<'a> {
    Chat {
        content: Vec<ChatEntry<'a>>,
        /// Always null.
        refusal: (),
    },
    /// Four lists with one entry per token in each.
    Completion {
        text_offset: Vec<usize>,
        token_logprobs: Vec<Option<f32>>,
        tokens: Vec<Cow<'a, str>>,
        top_logprobs: Vec<Option<TopTokens<'a>>>,
    },
}

/// A sampled token, with its alternatives.
#[derive(Serialize)]
pub(super) struct ChatEntry<'a> {
    #[serde(flatten)]
    own: TokenLogprob<'a>,
    top_logprobs: Vec<TokenLogprob<'a>>,
}

#[derive(Serialize)]
struct TokenLogprob<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

/// Texts of tokens with their log-probabilities, written as an object.
pub(super) struct TopTokens<'a>(Vec<(Cow<'a, str>, f32)>);

// === impl Logprobs ===

impl<'a> Logprobs<'a> {
    /// Returns the log-probabilities of `entries`, if the client asked for any.
    pub(super) fn of(setting: &'a Setting, entries: &[Entry]) -> Option<Self> {
        let tokenizer = setting.gateway.tokenizer();
        setting.form.logprobs.then(|| match setting.form.shape {
            Shape::Chat => {
                let content = entries.iter().map(|entry| ChatEntry::new(tokenizer, entry));
                Self::Chat { content: content.collect(), refusal: () }
            }
            Shape::Completion => Self::completion(tokenizer, entries),
        })
    }

    fn completion(tokenizer: &'a Tokenizer, entries: &[Entry]) -> Self {
        let logprob =
            |entry: &Entry| entry.logprobs.as_ref().map(|logprobs| finite(logprobs.logprob));
        let text = |entry: &Entry| tokenizer.token_text(entry.token);
        let top = |entry: &Entry| TopTokens::new(tokenizer, entry);
        Self::Completion {
            text_offset: entries.iter().map(|entry| entry.offset).collect(),
            token_logprobs: entries.iter().map(logprob).collect(),
            tokens: entries.iter().map(text).collect(),
            top_logprobs: entries.iter().map(top).collect(),
        }
    }
}

// === impl ChatEntry ===

impl<'a> ChatEntry<'a> {
    fn new(tokenizer: &'a Tokenizer, entry: &Entry) -> Self {
        let (logprob, top) = match &entry.logprobs {
            Some(logprobs) => (logprobs.logprob, &*logprobs.top),
            None => (LOGPROB_MIN, &[][..]),
        };
        let top = top.iter().map(|&(token, logprob)| TokenLogprob::new(tokenizer, token, logprob));
        let own = TokenLogprob::new(tokenizer, entry.token, logprob);
        Self { own, top_logprobs: top.collect() }
    }
}

// === impl TokenLogprob ===

impl<'a> TokenLogprob<'a> {
    fn new(tokenizer: &'a Tokenizer, token: TokenId, logprob: f32) -> Self {
        let (text, bytes) = (tokenizer.token_text(token), tokenizer.token_bytes(token));
        Self { token: text, logprob: finite(logprob), bytes }
    }
}

// === impl TopTokens ===

impl<'a> TopTokens<'a> {
    fn new(tokenizer: &'a Tokenizer, entry: &Entry) -> Option<Self> {
        let logprobs = entry.logprobs.as_ref()?;
        // An object has one entry per text, so of tokens with the same text only the likeliest remains.
        let own = (entry.token, logprobs.logprob);
        let mut seen = Vec::with_capacity(logprobs.top.len() + 1);
        for &(token, logprob) in logprobs.top.iter().chain([&own]) {
            let text = tokenizer.token_text(token);
            if seen.iter().all(|(seen, _)| *seen != text) {
                seen.push((text, finite(logprob)));
            }
        }
        Some(Self(seen))
    }
}

impl Serialize for TopTokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LOGPROB_MIN }
}
