//! What a replica can hold at once.

use std::time::Duration;

use playhouse_types::{BlockSize, RequestId};

/// The sizes a scheduler works within. Every one is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests with a seat in the batch at the same time.
    pub max_num_seqs: usize,
    /// Tokens fed through the model in one step, prefill chunks and decodes together. Below
    /// `max_num_seqs`, decodes take turns.
    pub max_num_batched_tokens: usize,
    /// What prompts may add to the time of a step (**S-16**); `Duration::MAX` for no such limit.
    pub prefill_time: Duration,
    /// Tokens of one request, prompt and continuation together.
    pub max_model_len: usize,
    /// Blocks of the KV cache.
    pub kv_blocks: u32,
    /// Tokens of each of them.
    pub block_size: BlockSize,
    /// Steps that shall be under way at a time, such as one for each stage of a pipeline. With
    /// several, a step takes only its share of the requests.
    pub micro_batches: usize,
    /// Requests in one step, if that is less than its share; `usize::MAX` for no such limit.
    pub micro_batch_max: usize,
    /// Feed a request the token that a step in flight samples for it, before that is known
    /// (asynchronous scheduling). When the token ends the request, what was computed from it is
    /// thrown away. Only for engines that have all layers in one stage.
    pub lookahead: bool,
    /// Share full blocks between requests with the same beginning and the same salt.
    pub prefix_caching: bool,
}

/// A request that no amount of waiting would let run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id} needs {tokens} tokens of context (its prompt and one more), this replica has {limit}: \
     shorten the prompt, or give the replica a larger context and KV cache"
)]
pub struct NeverFits {
    /// The request.
    pub id: RequestId,
    /// Tokens of the prompt, plus one to generate.
    pub tokens: usize,
    /// Tokens one request can have here: see [`Limits::context`].
    pub limit: usize,
}

// === impl Limits ===

impl Limits {
    /// Tokens that one request can have, prompt and continuation together: `max_model_len`, or what
    /// the KV cache holds if that is less. A request that reaches it finishes with
    /// [`Length`](playhouse_types::FinishReason::Length), so that one which has the whole pool to
    /// itself ends rather than waits for blocks that do not exist.
    #[must_use]
    pub fn context(&self) -> usize {
        self.max_model_len.min(self.kv_blocks as usize * self.block_size.tokens())
    }

    pub(crate) fn check(&self) {
        let Self { max_num_seqs, max_num_batched_tokens, max_model_len, kv_blocks, .. } = *self;
        let Self { micro_batches, micro_batch_max, .. } = *self;
        let sizes = [
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            kv_blocks as usize,
            micro_batches,
            micro_batch_max,
        ];
        assert!(sizes.iter().all(|&size| size > 0), "a limit of 0 lets nothing run: {self:?}");
    }
}
