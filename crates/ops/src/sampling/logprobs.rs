//! Log-probabilities of tokens.

use playhouse_types::{TokenId, TokenLogprobs};

use super::tame;

/// Returns the log-probability of `token` and of the `top` most likely tokens, given raw logits: `[vocab]`.
///
/// A log-softmax with the sum in f64, in order of token id. When no token is possible every
/// log-probability is minus infinity.
#[must_use]
pub fn token_logprobs(logits: &[f32], token: TokenId, top: u32) -> TokenLogprobs {
    let best = logits.iter().copied().map(tame).fold(f32::NEG_INFINITY, f32::max);
    let weight = |&logit: &f32| f64::from((tame(logit) - best).exp());
    let log_sum = logits.iter().map(weight).sum::<f64>().ln();
    let logprob = |logit: f32| {
        if best == f32::NEG_INFINITY {
            return f32::NEG_INFINITY;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "log-probabilities are reported in f32"
        )]
        let logprob = (f64::from(tame(logit)) - f64::from(best) - log_sum) as f32;
        logprob
    };
    let top = most_likely(logits, top as usize);
    TokenLogprobs {
        token,
        logprob: logprob(logits[token as usize]),
        top: top.into_iter().map(|(token, logit)| (token, logprob(logit))).collect(),
    }
}

/// Returns the `count` largest logits, largest first, ties by lower id. One pass: `count` is small.
fn most_likely(logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
    let mut top: Vec<(TokenId, f32)> = Vec::with_capacity(count + 1);
    for (token, logit) in (0..).zip(logits.iter().copied().map(tame)) {
        if top.len() == count && top.last().is_none_or(|&(_, last)| logit <= last) {
            continue;
        }
        let place = top.partition_point(|&(_, other)| other >= logit);
        top.insert(place, (token, logit));
        top.truncate(count);
    }
    top
}
