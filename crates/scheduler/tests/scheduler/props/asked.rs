//! What a request asks for, and what came of it.

use playhouse_scheduler::{Limits, Terms};
use playhouse_types::{FinishReason, GenerateRequest, TokenId};

use super::engine::alone;

/// What came of a request.
pub(crate) struct Asked {
    pub(crate) request: GenerateRequest,
    pub(crate) terms: Terms,
    pub(crate) emitted: Vec<TokenId>,
    /// Positions whose log-probabilities were emitted.
    pub(crate) reported: Vec<TokenId>,
    pub(crate) cached_tokens: Option<u32>,
    pub(crate) finish: Option<FinishReason>,
    pub(crate) had_slot: bool,
    /// Deaths that met it in flight, and whether it was alone in the last one.
    pub(crate) deaths: u32,
    pub(crate) died_alone: bool,
}

// === impl Asked ===

impl Asked {
    pub(crate) fn new(request: GenerateRequest, terms: Terms) -> Self {
        Self {
            request,
            terms,
            emitted: Vec::new(),
            reported: Vec::new(),
            cached_tokens: None,
            finish: None,
            had_slot: false,
            deaths: 0,
            died_alone: false,
        }
    }

    /// Checks **S-4**, **S-5** and **S-9** for this request, which has ended.
    pub(crate) fn judge(&self, limits: &Limits) {
        let id = self.request.id;
        let (tokens, finish) = alone(&self.request, limits);
        let finished = self.finish.as_ref().expect("drained");
        match finished {
            FinishReason::Expired => assert!(self.emitted.is_empty(), "S-13: {id}"),
            FinishReason::Cancelled | FinishReason::Failed(_) => {
                assert!(tokens.starts_with(&self.emitted), "S-4: {id} up to its early end");
            }
            _ => assert_eq!((&self.emitted, finished), (&tokens, &finish), "S-4: {id}"),
        }
        if matches!(finished, FinishReason::Failed(_)) {
            assert!(self.deaths >= 3 && self.died_alone, "S-9: {id} fails for others");
        }
        let prompt = self.request.prompt.len() as TokenId;
        let wanted = self.request.sampling.prompt_logprobs.is_some();
        let positions: Vec<TokenId> = (1..if wanted { prompt } else { 1 }).collect();
        if self.emitted.is_empty() {
            assert!(positions.starts_with(&self.reported), "S-4: {id}: {:?}", self.reported);
        } else {
            assert_eq!(self.reported, positions, "S-4: prompt log-probabilities of {id}");
        }
    }
}
