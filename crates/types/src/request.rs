//! What enters a replica, and what a replica returns.

use std::sync::Arc;

use crate::{RequestId, Sampled, SamplingParams, TokenId, TokenLogprobs};

/// One accepted generation, checked by [`SamplingParams::check`] and against the context length.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct GenerateRequest {
    /// Name of the request in every message about it.
    pub id: RequestId,
    /// The prompt; never empty.
    pub prompt: Arc<[TokenId]>,
    /// Parameters by which tokens are chosen and the generation stops.
    pub sampling: Arc<SamplingParams>,
    /// Salt of the prefix cache: only requests with the same salt share blocks.
    pub cache_salt: u64,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum FinishReason {
    /// This stop token was sampled. The last token of the emission is the stop token.
    Stop(TokenId),
    /// `max_tokens` or the context length was reached.
    Length,
    /// The caller disconnected or cancelled the request.
    Cancelled,
    /// The engine could not run the request; the text tells a person why.
    Failed(String),
    /// No replica could serve the request for too long; the text tells a person why. Another attempt may
    /// succeed.
    Unserved(String),
    /// The request had not begun at its deadline, so it was not computed.
    Expired,
    /// The server is shutting down and its drain time is over. Another server may answer the request.
    Draining,
}

/// What one step produced for one request.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Emission {
    /// Id of the request.
    pub id: RequestId,
    /// Prompt tokens found in the prefix cache when the request was first admitted.
    pub cached_tokens: u32,
    /// Log-probabilities of prompt tokens, in order, each position once; empty unless
    /// [`SamplingParams::prompt_logprobs`] was set. The first prompt token has none, so the
    /// first entry belongs to position 1.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// The token of this step, if one was sampled.
    pub token: Option<Sampled>,
    /// Why the request ended; set on its last emission, and only there.
    pub finish: Option<FinishReason>,
}
