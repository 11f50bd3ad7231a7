//! The contract between scheduler and engine: a [`StepPlan`] goes down, a [`StepOutcome`] comes up.
//!
//! An engine keeps one sequence per [`Slot`]: the sampling parameters, the tokens so far and the block table.
//! A plan changes slots in this order: `released`, then `admitted`, then `runs`. A sampled token belongs to
//! the sequence once a run says so ([`Run::appended`]). The run either names the token, so that every rank of
//! a replica learns the same token; or, when the plan was made before the token was known, tells the engine
//! to take the token that the engine itself sampled.

use std::sync::Arc;

use crate::{BlockId, Epoch, SamplingParams, Slot, StepId, TokenId};

/// One forward pass over a ragged batch.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StepPlan {
    /// Epoch of the replica that planned the step.
    pub epoch: Epoch,
    /// Number of the step; outcomes come back in the same order.
    pub step: StepId,
    /// Slots to empty first.
    pub released: Vec<Slot>,
    /// Slots to fill.
    pub admitted: Vec<Admitted>,
    /// Runs to compute; at most one per slot. May be empty when slots only change.
    pub runs: Vec<Run>,
}

/// A sequence that takes a slot, new or resumed after preemption.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Admitted {
    /// Slot that the sequence takes.
    pub slot: Slot,
    /// All tokens known: the prompt, then the tokens emitted before a preemption.
    pub tokens: Arc<[TokenId]>,
    /// How many of `tokens` belong to the prompt.
    pub prompt_tokens: u32,
    /// Sampling parameters of the sequence.
    pub sampling: Arc<SamplingParams>,
    /// Blocks that already hold the first tokens (prefix-cache hits), whole blocks only.
    pub blocks: Vec<BlockId>,
}

/// Consecutive tokens of one sequence to feed through the model.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Run {
    /// Slot of the sequence.
    pub slot: Slot,
    /// Position of the first token fed. All positions before `start` are in the KV cache.
    pub start: u32,
    /// How many tokens to feed. The engine knows the tokens: admitted, or sampled since.
    pub tokens: u32,
    /// Token that is appended to the sequence first: the token sampled from the run before, or none.
    pub appended: Appended,
    /// Blocks appended to the block table before running.
    pub new_blocks: Vec<BlockId>,
    /// Rows that need logits.
    pub logits: Logits,
}

/// The token by which a sequence grows before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Appended {
    /// No token: the run feeds tokens that the engine already has.
    Nothing,
    /// This token, sampled from the run before.
    Token(TokenId),
    /// The token that the engine sampled from the run before, whose outcome the planner has not seen yet.
    /// Only where one stage has all layers.
    OwnSample,
}

/// The rows of a run that go through the language-model head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Logits {
    /// No row: the run is a prefill chunk before the last.
    None,
    /// The last row, from which the next token is sampled.
    Last,
    /// Every row that predicts a prompt token, to report the token's log-probability. When the last row is
    /// that of the last known token, the next token is sampled from that row.
    All,
}

/// The outcome of a [`StepPlan`].
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StepOutcome {
    /// Epoch of the plan.
    pub epoch: Epoch,
    /// Step of the plan.
    pub step: StepId,
    /// Outcomes of the runs, in plan order. A step that fails has no outcome: its engine exits.
    pub runs: Vec<RunOutcome>,
}

/// The outcome of a [`Run`].
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct RunOutcome {
    /// Slot of the run.
    pub slot: Slot,
    /// The tokens sampled from the last row, in order: one when the run asked for it, else none.
    pub sampled: Vec<Sampled>,
    /// For [`Logits::All`]: entry `i` is the prompt token at position `start + i + 1`, for every
    /// such position below the prompt's length.
    pub prompt_logprobs: Vec<TokenLogprobs>,
}

/// A token chosen by the engine.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Sampled {
    /// Id of the token.
    pub token: TokenId,
    /// Log-probabilities at the token's position, when [`SamplingParams::logprobs`] is set.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities (natural logarithm, of the model's own distribution: before penalties, bias
/// and temperature) at one position.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TokenLogprobs {
    /// The token that stands at the position.
    pub token: TokenId,
    /// Log-probability of that token.
    pub logprob: f32,
    /// The most likely tokens, most likely first, ties by lower id; as many as were asked for.
    pub top: Vec<(TokenId, f32)>,
}
