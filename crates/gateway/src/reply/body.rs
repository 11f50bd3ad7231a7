//! The objects of an answer, as OpenAI and vLLM name their fields.

use playhouse_types::TokenId;
use serde::Serialize;

use super::logprobs::Logprobs;
use crate::choice::{Finish, StopReason, Usage};

/// The fields that a whole answer, or every chunk of one, begins with.
#[derive(Serialize)]
pub(super) struct Head<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) system_fingerprint: &'static str,
}

/// The fields behind the [`Head`], of a whole answer or a chunk of one.
#[derive(Serialize)]
pub(super) struct Body<'a, C> {
    /// A list of [`ChoiceBody`].
    pub(super) choices: C,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [TokenId]>,
    pub(super) usage: Option<UsageBody>,
}

/// A choice, or the new part of a choice.
#[derive(Serialize)]
pub(super) struct ChoiceBody<'a> {
    pub(super) index: usize,
    #[serde(flatten)]
    pub(super) content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [TokenId]>,
    pub(super) logprobs: Option<Logprobs<'a>>,
    pub(super) finish_reason: Option<&'static str>,
    /// Absent until the choice is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop_reason: Option<StoppedBy<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_ids: Option<&'a [TokenId]>,
}

/// The text of a choice, in a field of the variant's name.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Content<'a> {
    Message(Message<'a>),
    Delta(ChatDelta<'a>),
    Text(&'a str),
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) role: &'static str,
    pub(super) content: &'a str,
    /// Always null.
    pub(super) refusal: (),
}

#[derive(Default, Serialize)]
pub(super) struct ChatDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum StoppedBy<'a> {
    /// Null: the choice ended with the sequence, or for another reason.
    Nothing,
    Token(TokenId),
    Text(&'a str),
}

#[derive(Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

// === impl ChoiceBody ===

impl<'a> ChoiceBody<'a> {
    pub(super) fn new(index: usize, content: Content<'a>) -> Self {
        Self {
            index,
            content,
            prompt_token_ids: None,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
            token_ids: None,
        }
    }

    /// Adds the reason why the choice ended, if it has ended.
    pub(super) fn ended(self, finish: Option<&'a Finish>) -> Self {
        let Some(finish) = finish else { return self };
        let (reason, by) = match finish {
            Finish::Stop(StopReason::EndOfSequence) => ("stop", StoppedBy::Nothing),
            Finish::Stop(StopReason::Token(token)) => ("stop", StoppedBy::Token(*token)),
            Finish::Stop(StopReason::Text(text)) => ("stop", StoppedBy::Text(text)),
            Finish::Length => ("length", StoppedBy::Nothing),
            // Never written: a failure ends the whole answer earlier (see `answer` and `stream`).
            Finish::Failed(_) => ("error", StoppedBy::Nothing),
        };
        Self { finish_reason: Some(reason), stop_reason: Some(by), ..self }
    }
}

// === impl UsageBody ===

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        let Usage { prompt, completion, cached } = *usage;
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: cached },
        }
    }
}
