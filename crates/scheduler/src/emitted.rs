//! What a request has emitted, kept by whoever may have to hand the request to another scheduler.

use std::time::Duration;

use playhouse_types::TokenId;

/// The state of a request outside of any scheduler: enough to go on behind its last token after its
/// scheduler was lost with everything that it had in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    /// The sampled tokens that were emitted, in order.
    pub tokens: Vec<TokenId>,
    /// The number of prompt log-probabilities that were emitted.
    pub prompt_logprobs: usize,
    /// The number of tokens found in the prefix cache when the request was admitted first, if it was.
    pub cached_tokens: Option<usize>,
    /// The time at which the request was enqueued first.
    pub arrived: Duration,
    /// The number of schedulers that were lost while they computed the request. The second makes it a
    /// suspect (**S-9**).
    pub losses: u32,
}
