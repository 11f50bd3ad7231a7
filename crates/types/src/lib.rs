//! The types that every layer of Playhouse shares, with validation and arithmetic on sizes, and no other
//! logic.
//!
//! - **T-1** a [`GenerateRequest`] that passed [`SamplingParams::check`] is safe for every layer
//!   below: each number is finite and in range, each token id exists in the vocabulary.
//! - **T-2** a [`StepPlan`] is complete: an engine needs it, the plans before it and nothing else.
//!
//! Not here: how a step is decided (see `scheduler`) and computed (see `model`), or how a request is spelled
//! on
//! the wire (see `gateway`).
#![forbid(unsafe_code)]

mod checkpoint;
mod decoder;
mod ids;
mod parallel;
mod prefix;
mod random;
mod request;
mod sampling;
mod step;

pub use checkpoint::CheckpointDigest;
pub use decoder::{
    Activation, Attention, DecoderSpec, Dense, FeedForward, Gqa, LayerSpec, Mla, Moe, NormKind,
    NormPlace, Rope, RopeScaling,
};
pub use ids::{BlockId, BlockSize, Epoch, ReplicaId, RequestId, Slot, StepId, TokenId};
pub use parallel::{
    ExpertBalance, ExpertParallel, ExpertPlacement, LoadBalancing, ParallelSpec, Role,
};
pub use prefix::PrefixEvent;
pub use random::splitmix64;
pub use request::{Emission, FinishReason, GenerateRequest};
pub use sampling::{InvalidParam, SamplingParams, TOP_LOGPROBS_MAX};
pub use step::{
    Admitted, Appended, Logits, Run, RunOutcome, Sampled, StepOutcome, StepPlan, TokenLogprobs,
};
