//! What enters a replica, and what comes out of it.

use std::sync::Arc;

use crate::{RequestId, Sampled, SamplingParams, TokenId, TokenLogprobs};

/// One accepted generation, checked by [`SamplingParams::check`] and against the context length.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct GenerateRequest {
    /// Names the request in every message about it.
    pub id: RequestId,
    /// The prompt; never empty.
    pub prompt: Arc<[TokenId]>,
    /// How to choose tokens and when to stop.
    pub sampling: Arc<SamplingParams>,
    /// Requests share prefix-cache blocks only with requests of the same salt.
    pub cache_salt: u64,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum FinishReason {
    /// This stop token was sampled. It is the last token of the emission.
    Stop(TokenId),
    /// `max_tokens` or the context length was reached.
    Length,
    /// The caller went away or asked for the end.
    Cancelled,
    /// The engine could not run it; the text says why, for a person.
    Failed(String),
    /// No replica could serve it for too long; the text says why, for a person. Another attempt may
    /// succeed.
    Unserved(String),
    /// It had not begun at its deadline, so it was not computed.
    Expired,
    /// The server is shutting down and the time it had for that is over. Another server may answer it.
    Draining,
}

/// What one step produced for one request.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Emission {
    /// The request.
    pub id: RequestId,
    /// Prompt tokens found in the prefix cache when the request was first admitted.
    pub cached_tokens: u32,
    /// Log-probabilities of prompt tokens, in order, each position once; empty unless
    /// [`SamplingParams::prompt_logprobs`] was set. The first prompt token has none, so the
    /// first entry belongs to position 1.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// The token of this step, if one was sampled.
    pub token: Option<Sampled>,
    /// Set on the last emission of a request, and only there.
    pub finish: Option<FinishReason>,
}
