//! The calls that a scheduler gets, drawn at random.

use std::time::Duration;

use playhouse_scheduler::Limits;
use playhouse_types::{BlockSize, TokenId};
use proptest::prelude::*;

/// A call of the scheduler, or what happens to its engine.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Enqueue(Wish),
    Plan,
    Apply,
    /// The n-th unfinished request.
    Cancel(usize),
    /// Every request is given up and taken back, with steps in flight.
    VacateAll,
    /// The engine dies; the outcome of its oldest step may still arrive.
    Die {
        late: bool,
    },
}

/// What a request is made of.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Requests of a family have the same tokens as far as both reach.
    pub(crate) family: TokenId,
    pub(crate) prompt: usize,
    /// The prompt goes on from the prompt and the output so far of this request, if there is one:
    /// the next turn of a chat.
    pub(crate) follows: usize,
    pub(crate) max_tokens: u32,
    pub(crate) min_tokens: u32,
    pub(crate) stops: Vec<TokenId>,
    pub(crate) salt: u64,
    pub(crate) prompt_logprobs: bool,
    pub(crate) priority: i32,
    pub(crate) tenant: u32,
    /// Calls from now on, after which it expires.
    pub(crate) patience: Option<u32>,
}

pub(crate) fn limits() -> impl Strategy<Value = (Limits, usize)> {
    let sizes = (1..6usize, 1..40usize, 20..160usize, 2..24u32, any::<bool>(), 1..4usize);
    let steps = (1..4usize, prop_oneof![Just(usize::MAX), 1..4usize], any::<bool>());
    (sizes, steps).prop_map(|(sizes, (micro_batches, micro_batch_max, lookahead))| {
        let (seqs, budget, len, kv_blocks, prefix_caching, depth) = sizes;
        let limits = Limits {
            max_num_seqs: seqs,
            max_num_batched_tokens: budget,
            prefill_time: Duration::MAX,
            max_model_len: len,
            kv_blocks,
            block_size: BlockSize::CPU,
            micro_batches,
            micro_batch_max,
            lookahead,
            prefix_caching,
        };
        (limits, depth)
    })
}

pub(crate) fn wishes() -> impl Strategy<Value = Wish> {
    let lengths = (1..70usize, 1..40u32, 0..8u32);
    let stops = prop::collection::vec(0..50u32, 0..3);
    let follows = prop_oneof![Just(usize::MAX), 0..20usize];
    let salt = (0..2u64, prop::bool::weighted(0.2));
    let patience = prop_oneof![8 => Just(None), 1 => (0..60u32).prop_map(Some)];
    let terms = (prop_oneof![4 => Just(0), 1 => -1..2i32], 0..3u32, patience);
    let parts = (0..3u32, lengths, follows, stops, salt, terms);
    parts.prop_map(|(family, (prompt, max_tokens, min_tokens), follows, stops, salt, terms)| {
        let ((salt, prompt_logprobs), (priority, tenant, patience)) = (salt, terms);
        Wish {
            family,
            prompt,
            follows,
            max_tokens,
            min_tokens: min_tokens.min(max_tokens),
            stops,
            salt,
            prompt_logprobs,
            priority,
            tenant,
            patience,
        }
    })
}

pub(crate) fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        10 => wishes().prop_map(Call::Enqueue),
        40 => Just(Call::Plan),
        40 => Just(Call::Apply),
        4 => (0..8usize).prop_map(Call::Cancel),
        1 => Just(Call::VacateAll),
        1 => any::<bool>().prop_map(|late| Call::Die { late }),
    ];
    prop::collection::vec(call, 1..300)
}
