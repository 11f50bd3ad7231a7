//! The contract between scheduler and engine: a plan down, an outcome up.
//!
//! An engine keeps one sequence per [`Slot`]: the sampling parameters, the tokens so far and the block
//! table. A plan changes slots in this order: `released`, then `admitted`, then `runs`. A sampled
//! token belongs to the sequence once a run says so ([`Run::appended`]): with the token, so that
//! every rank of a replica learns it alike, or, when the plan was made before the token was known,
//! by telling the engine to take what it sampled itself.

use std::sync::Arc;

use crate::{BlockId, Epoch, SamplingParams, Slot, StepId, TokenId};

/// One forward pass over a ragged batch.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StepPlan {
    /// The incarnation that planned it.
    pub epoch: Epoch,
    /// Its number; outcomes come back in the same order.
    pub step: StepId,
    /// Slots to empty first.
    pub released: Vec<Slot>,
    /// Slots to fill.
    pub admitted: Vec<Admitted>,
    /// What to compute; at most one run per slot. May be empty when slots only change.
    pub runs: Vec<Run>,
}

/// A sequence taking a slot, new or resumed after preemption.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Admitted {
    /// The slot.
    pub slot: Slot,
    /// All tokens known: the prompt, then whatever was emitted before a preemption.
    pub tokens: Arc<[TokenId]>,
    /// How many of `tokens` are prompt.
    pub prompt_tokens: u32,
    /// How to choose tokens.
    pub sampling: Arc<SamplingParams>,
    /// Blocks that already hold the first tokens (prefix-cache hits), whole blocks only.
    pub blocks: Vec<BlockId>,
}

/// Consecutive tokens of one sequence to feed through the model.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Run {
    /// The slot.
    pub slot: Slot,
    /// Position of the first token fed. All positions before it are in the KV cache.
    pub start: u32,
    /// How many tokens to feed. The engine knows them: admitted, or sampled since.
    pub tokens: u32,
    /// What becomes of the token sampled from the run before: appended to the sequence first.
    pub appended: Appended,
    /// Blocks appended to the block table before running.
    pub new_blocks: Vec<BlockId>,
    /// Which positions need logits.
    pub logits: Logits,
}

/// The token that a sequence grows by before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Appended {
    /// None: the run feeds what the engine was told before.
    Nothing,
    /// This one, sampled from the run before.
    Token(TokenId),
    /// Whichever the engine sampled from the run before, whose outcome the planner has not seen
    /// yet. Only where one stage has all layers.
    OwnSample,
}

/// Which rows of a run go through the language-model head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Logits {
    /// A prefill chunk before the last: none.
    None,
    /// The last row: sample the next token from it.
    Last,
    /// Every row that predicts a prompt token, to report its log-probability; and the last row is
    /// sampled from when it is the last known token.
    All,
}

/// What came of a [`StepPlan`].
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StepOutcome {
    /// As in the plan.
    pub epoch: Epoch,
    /// As in the plan.
    pub step: StepId,
    /// One entry per run, in plan order. A step that fails has no outcome: its engine exits.
    pub runs: Vec<RunOutcome>,
}

/// What came of a [`Run`].
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct RunOutcome {
    /// The slot.
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
    /// The token.
    pub token: TokenId,
    /// Present when [`SamplingParams::logprobs`] is.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities (natural logarithm, of the model's own distribution: before penalties, bias
/// and temperature) at one position.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct TokenLogprobs {
    /// The token that stands at the position.
    pub token: TokenId,
    /// Its log-probability.
    pub logprob: f32,
    /// The most likely tokens, best first, ties by lower id; as many as were asked for.
    pub top: Vec<(TokenId, f32)>,
}
