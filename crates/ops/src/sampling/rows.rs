//! Many rows of logits at once, on all threads.

use std::sync::OnceLock;

use candle_core::{Result, Storage, Tensor, bail};
use playhouse_types::{Sampled, SamplingParams, TokenId, TokenLogprobs};

use super::{TokenState, sample, token_logprobs};
use crate::context::Context;

/// What is wanted of one row of logits.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogitsRow<'a> {
    /// Report the log-probability of this token, and so many of the most likely ones.
    pub reported: Option<(TokenId, u32)>,
    /// Sample the next token of the sequence that these describe.
    pub sampled: Option<(&'a SamplingParams, &'a TokenState)>,
}

/// What came of a [`LogitsRow`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOutcome {
    /// The log-probability that was asked for.
    pub reported: Option<TokenLogprobs>,
    /// The token that was sampled.
    pub sampled: Option<Sampled>,
}

/// Does to each row of `logits` (`[rows, vocab]`, f32, contiguous) what is wanted of it. Rows are spread
/// over the threads; what comes of a row does not depend on the others (**SA-1**).
///
/// # Errors
/// When there are not as many rows as are wanted, or the logits are of another type or strided.
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
