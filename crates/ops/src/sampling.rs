//! Sampling: choosing a token from a row of logits.
//!
//! - **SA-1** the token is a pure function of the logits, the parameters and the tokens so far: neither the
//!   batch, nor earlier draws, nor a preemption in between has an influence (**G2**).
//! - **SA-2** log-probabilities are the model's: taken from the raw logits, before bias, penalties and
//!   temperature.
//! - **SA-3** no logits cause a panic or give NaN: NaN counts as minus infinity, plus infinity as the largest
//!   finite number; when no token is possible the answer is token 0.
//!
//! Order and definitions are vLLM's (`v1/sample/sampler.py`): `min_tokens` mask and `logit_bias`;
//! repetition, frequency and presence penalties; temperature; `min_p`, `top_k`, `top_p`; draw.
//! Where vLLM keeps every token tied with the last of `top_k`, ties here go to the lower id, so
//! that `top_k` is exact.
//!
//! Randomness is counter-based: the uniform number for a position is a hash (SplitMix64, Steele,
//! Lea and Flood, OOPSLA 2014) of the seed and the position, so there is no state to lose.
//!
//! Not here: the ranges of parameters (see [`SamplingParams::check`]) and the end of a generation.

mod candidates;
mod logprobs;
mod rows;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use playhouse_types::{SamplingParams, TokenId, splitmix64};

use self::candidates::Candidates;
pub use self::logprobs::token_logprobs;
pub use self::rows::{LogitsRow, RowOutcome, sample_rows};

/// The state of one sequence that sampling needs. Can be rebuilt from the sequence's tokens at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenState {
    prompt_tokens: usize,
    tokens: usize,
    /// Occurrences in the output of every token seen, so 0 for those of the prompt alone.
    /// `None` without penalties.
    output_counts: Option<HashMap<TokenId, u32>>,
}

// === impl TokenState ===

impl TokenState {
    /// Returns the state after `tokens`, of which the first `prompt_tokens` are prompt.
    #[must_use]
    pub fn new(tokens: &[TokenId], prompt_tokens: usize, params: &SamplingParams) -> Self {
        let (prompt, output) = tokens.split_at(prompt_tokens);
        let mut state = Self {
            prompt_tokens,
            tokens: prompt_tokens,
            output_counts: params
                .has_penalties()
                .then(|| prompt.iter().map(|&token| (token, 0)).collect()),
        };
        for &token in output {
            state.push(token);
        }
        state
    }

    /// Appends an output token to the state.
    pub fn push(&mut self, token: TokenId) {
        self.tokens += 1;
        if let Some(counts) = &mut self.output_counts {
            *counts.entry(token).or_default() += 1;
        }
    }

    fn output_tokens(&self) -> usize {
        self.tokens - self.prompt_tokens
    }
}

/// Returns the next token, given the logits of the last one: `[vocab]`.
#[must_use]
pub fn sample(logits: &[f32], params: &SamplingParams, state: &TokenState) -> TokenId {
    let logits = adjust(logits, params, state);
    if params.temperature == 0.0 {
        return argmax(&logits);
    }
    let mut candidates = Candidates::new(&logits, params.temperature, params.min_p);
    candidates.keep_top_k(params.top_k);
    candidates.keep_top_p(params.top_p);
    candidates.draw(uniform(params.seed, state.tokens as u64)).unwrap_or(0)
}

/// Applies mask, bias and penalties. Few tokens are changed, so most rows are not copied at all.
fn adjust<'a>(logits: &'a [f32], params: &SamplingParams, state: &TokenState) -> Cow<'a, [f32]> {
    let mut logits = Cow::Borrowed(logits);
    if state.output_tokens() < params.min_tokens as usize {
        for &token in &params.stop_tokens {
            logits.to_mut()[token as usize] = f32::NEG_INFINITY;
        }
    }
    for &(token, bias) in &params.logit_bias {
        logits.to_mut()[token as usize] += bias;
    }
    for (&token, &count) in state.output_counts.iter().flatten() {
        let logit = &mut logits.to_mut()[token as usize];
        let repetition = params.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        *logit -= params.frequency_penalty * count as f32;
        if count > 0 {
            *logit -= params.presence_penalty;
        }
    }
    logits
}

/// Returns the most likely token, the lowest id among equals.
fn argmax(logits: &[f32]) -> TokenId {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        // False for NaN (**SA-3**).
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

/// Returns a logit that can be computed with (**SA-3**).
fn tame(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) }
}

/// Returns the random number of a position, in [0, 1).
fn uniform(seed: u64, position: u64) -> f64 {
    // The top 53 bits fill the mantissa of an f64.
    (splitmix64(splitmix64(seed) ^ position) >> 11) as f64 / (1_u64 << 53) as f64
}
