//! Sampling of many rows of logits at once, on all threads.

use std::sync::OnceLock;

use candle_core::{Result, Storage, Tensor, bail};
use playhouse_types::{Sampled, SamplingParams, TokenId, TokenLogprobs};

use super::{TokenState, sample, token_logprobs};
use crate::context::Context;

/// The request for one row of logits.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogitsRow<'a> {
    /// Token whose log-probability to report, and how many of the most likely tokens to report with it.
    pub reported: Option<(TokenId, u32)>,
    /// Parameters and state of the sequence whose next token to sample.
    pub sampled: Option<(&'a SamplingParams, &'a TokenState)>,
}

/// The outcome of a [`LogitsRow`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOutcome {
    /// The log-probability that was asked for.
    pub reported: Option<TokenLogprobs>,
    /// The token that was sampled.
    pub sampled: Option<Sampled>,
}

/// Reports and samples from each row of `logits` (`[rows, vocab]`, f32, contiguous) as its [`LogitsRow`]
/// asks. Rows are spread over the threads; the outcome of a row does not depend on the others (**SA-1**).
///
/// # Errors
/// When the logits do not have as many rows as requests, have another type, or are strided.
pub fn sample_rows(
    logits: &Tensor,
    wanted: &[LogitsRow<'_>],
    context: &Context,
) -> Result<Vec<RowOutcome>> {
    let Context::Cpu(threads) = context;
    let (rows, vocab) = logits.dims2()?;
    if rows != wanted.len() {
        bail!("sampling: {rows} rows of logits, {} are wanted", wanted.len());
    }
    let (storage, layout) = logits.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        bail!("sampling: the logits need to be contiguous, in memory");
    };
    let logits = &storage.as_slice::<f32>()?[start..end];
    let outcomes: Vec<OnceLock<RowOutcome>> = wanted.iter().map(|_| OnceLock::new()).collect();
    threads.run(rows, |row| {
        let outcome = wanted[row].outcome(&logits[row * vocab..(row + 1) * vocab]);
        outcomes[row].set(outcome).expect("a row is one task");
    });
    Ok(outcomes.into_iter().map(|outcome| outcome.into_inner().unwrap_or_default()).collect())
}

// === impl LogitsRow ===

impl LogitsRow<'_> {
    fn outcome(&self, logits: &[f32]) -> RowOutcome {
        let reported = self.reported.map(|(token, top)| token_logprobs(logits, token, top));
        let sampled = self.sampled.map(|(params, state)| {
            let token = sample(logits, params, state);
            let logprobs = params.logprobs.map(|top| token_logprobs(logits, token, top));
            Sampled { token, logprobs }
        });
        RowOutcome { reported, sampled }
    }
}
