//! Sampling parameters and their ranges: the only place where the ranges are written.

use crate::TokenId;

/// Most alternatives per position that a request may ask for (OpenAI's limit).
pub const TOP_LOGPROBS_MAX: u32 = 20;

/// Parameters by which the tokens of one sequence are chosen and the generation stops.
///
/// The order of operations is that of vLLM: `min_tokens` mask and `logit_bias`, repetition, frequency
/// and presence penalties, temperature, `min_p`, `top_k`, `top_p`, draw.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct SamplingParams {
    /// Divisor of the logits, at most 2; 0 is greedy.
    pub temperature: f32,
    /// Probability mass that the smallest set of most likely tokens has to reach; in (0, 1].
    pub top_p: f32,
    /// Number of most likely tokens to draw from; 0 means all.
    pub top_k: u32,
    /// Least probability of a token as a fraction of the most likely token's; in [0, 1].
    pub min_p: f32,
    /// Factor that divides positive and multiplies negative logits of tokens of prompt or output; > 0.
    pub repetition_penalty: f32,
    /// Amount subtracted once from the logits of tokens of the output; in [-2, 2].
    pub presence_penalty: f32,
    /// Amount subtracted from the logit of a token per occurrence in the output; in [-2, 2].
    pub frequency_penalty: f32,
    /// Amounts added to logits; each in [-100, 100], each token once.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Seed of the draws: together with the position the only source of randomness (**G2**).
    pub seed: u64,
    /// Tokens to generate at most; at least 1.
    pub max_tokens: u32,
    /// Number of generated tokens before which stop tokens are masked; at most `max_tokens`.
    pub min_tokens: u32,
    /// Tokens that end the generation: end-of-sequence tokens and the caller's own.
    pub stop_tokens: Vec<TokenId>,
    /// Alternatives to report with the log-probabilities of sampled tokens; `None` reports no
    /// log-probabilities.
    pub logprobs: Option<u32>,
    /// Alternatives to report with the log-probabilities of prompt tokens; `None` reports no
    /// log-probabilities.
    pub prompt_logprobs: Option<u32>,
}

/// A parameter out of its range. The text names the value given and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: got {given}, must be {allowed}")]
pub struct InvalidParam {
    /// Name of the field, as in the API.
    pub param: &'static str,
    /// The value given.
    pub given: String,
    /// The values allowed, in words that follow "must be".
    pub allowed: String,
}

// === impl SamplingParams ===

impl SamplingParams {
    /// Returns the parameters of greedy decoding of up to `max_tokens` tokens, with nothing else set.
    #[must_use]
    pub fn greedy(max_tokens: u32) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            max_tokens,
            min_tokens: 0,
            stop_tokens: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
        }
    }

    /// Returns true when penalties need the tokens seen so far.
    #[must_use]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }

    /// Checks every field against its range (**T-1**).
    ///
    /// # Errors
    /// Returns the first parameter that is out of range.
    pub fn check(&self, vocab: u32) -> Result<(), InvalidParam> {
        within("temperature", self.temperature, 0.0, 2.0)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(out_of_range("top_p", self.top_p, "in (0, 1]"));
        }
        within("min_p", self.min_p, 0.0, 1.0)?;
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let given = self.repetition_penalty;
            return Err(out_of_range("repetition_penalty", given, "finite and above 0"));
        }
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        for &(token, bias) in &self.logit_bias {
            in_vocabulary("logit_bias", token, vocab)?;
            within("logit_bias", bias, -100.0, 100.0)?;
        }
        for &token in &self.stop_tokens {
            in_vocabulary("stop_token_ids", token, vocab)?;
        }
        self.check_lengths()
    }

    fn check_lengths(&self) -> Result<(), InvalidParam> {
        if self.max_tokens == 0 {
            return Err(out_of_range("max_tokens", 0, "at least 1"));
        }
        if self.min_tokens > self.max_tokens {
            let allowed = format!("at most max_tokens ({})", self.max_tokens);
            return Err(out_of_range("min_tokens", self.min_tokens, &allowed));
        }
        for (param, given) in
            [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)]
        {
            if given.is_some_and(|count| count > TOP_LOGPROBS_MAX) {
                let allowed = format!("between 0 and {TOP_LOGPROBS_MAX}");
                return Err(out_of_range(param, given.unwrap_or_default(), &allowed));
            }
        }
        Ok(())
    }
}

fn within(param: &'static str, given: f32, low: f32, high: f32) -> Result<(), InvalidParam> {
    if given >= low && given <= high {
        return Ok(());
    }
    Err(out_of_range(param, given, &format!("between {low} and {high}")))
}

fn in_vocabulary(param: &'static str, token: TokenId, vocab: u32) -> Result<(), InvalidParam> {
    if token < vocab {
        return Ok(());
    }
    Err(out_of_range(param, token, &format!("a token id below the vocabulary size {vocab}")))
}

fn out_of_range(param: &'static str, given: impl std::fmt::Display, allowed: &str) -> InvalidParam {
    InvalidParam { param, given: given.to_string(), allowed: allowed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut SamplingParams)) -> &'static str {
        let mut params = SamplingParams::greedy(16);
        change(&mut params);
        params.check(100).expect_err("must be refused").param
    }

    #[test]
    fn every_field_out_of_range_is_refused_by_name() {
        assert_eq!(SamplingParams::greedy(1).check(1), Ok(()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -3.0] {
            assert_eq!(refused(|p| p.temperature = bad), "temperature");
            assert_eq!(refused(|p| p.top_p = bad), "top_p");
            assert_eq!(refused(|p| p.min_p = bad), "min_p");
            assert_eq!(refused(|p| p.repetition_penalty = bad), "repetition_penalty");
            assert_eq!(refused(|p| p.presence_penalty = bad), "presence_penalty");
            assert_eq!(refused(|p| p.frequency_penalty = bad), "frequency_penalty");
            assert_eq!(refused(|p| p.logit_bias = vec![(1, bad * 100.0)]), "logit_bias");
        }
        assert_eq!(refused(|p| p.top_p = 0.0), "top_p");
        assert_eq!(refused(|p| p.logit_bias = vec![(100, 0.0)]), "logit_bias");
        assert_eq!(refused(|p| p.stop_tokens = vec![100]), "stop_token_ids");
        assert_eq!(refused(|p| p.max_tokens = 0), "max_tokens");
        assert_eq!(refused(|p| p.min_tokens = 17), "min_tokens");
        assert_eq!(refused(|p| p.logprobs = Some(21)), "logprobs");
    }

    #[test]
    fn the_message_names_value_and_range() {
        let mut params = SamplingParams::greedy(1);
        params.temperature = 3.5;
        let error = params.check(10).expect_err("3.5 is out of range");
        assert_eq!(error.to_string(), "temperature: got 3.5, must be between 0 and 2");
    }
}
