//! [`Limits`]: the sizes of a replica's batch and KV cache.

use std::time::Duration;

use playhouse_types::{BlockSize, RequestId};

/// The sizes within which a scheduler works. Every size is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of requests with a slot in the batch at the same time.
    pub max_num_seqs: usize,
    /// Maximum number of tokens fed through the model in one step, prefill chunks and decodes together.
    /// Below `max_num_seqs`, decodes take turns.
    pub max_num_batched_tokens: usize,
    /// Maximum time that prompts may add to a step (**S-16**); `Duration::MAX` for no such limit.
    pub prefill_time: Duration,
    /// Maximum number of tokens of one request, prompt and continuation together.
    pub max_model_len: usize,
    /// Number of blocks of the KV cache.
    pub kv_blocks: u32,
    /// Number of tokens of each block.
    pub block_size: BlockSize,
    /// Number of steps that shall be under way at a time, such as one for each stage of a pipeline. With
    /// several, a step takes only its share of the requests.
    pub micro_batches: usize,
    /// Maximum number of requests in one step, if that is less than its share; `usize::MAX` for no such
    /// limit.
    pub micro_batch_max: usize,
    /// Whether a request is fed the token that a step in flight samples for it, before that token is
    /// known (asynchronous scheduling). When the token ends the request, what was computed from it is
    /// thrown away. Only for engines that have all layers in one stage.
    pub lookahead: bool,
    /// Whether full blocks are shared between requests with the same beginning and the same salt.
    pub prefix_caching: bool,
}

/// The error of a request that could never run, however long it waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id} needs {tokens} tokens of context (its prompt and one more), this replica has {limit}: \
     shorten the prompt, or give the replica a larger context and KV cache"
)]
pub struct NeverFits {
    /// The id of the request.
    pub id: RequestId,
    /// The tokens of the prompt, and one to generate.
    pub tokens: usize,
    /// The maximum number of tokens of one request here: see [`Limits::context`].
    pub limit: usize,
}

// === impl Limits ===

impl Limits {
    /// Returns the maximum number of tokens of one request, prompt and continuation together:
    /// `max_model_len`, or what the KV cache holds if that is less. A request that reaches the maximum
    /// finishes with [`Length`](playhouse_types::FinishReason::Length), so that a request that has the
    /// whole pool to itself ends rather than waits for blocks that do not exist.
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
