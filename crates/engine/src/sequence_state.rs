//! A sequence on the engine.

use std::ops::Range;
use std::sync::Arc;

use playhouse_model::Chunk;
use playhouse_ops::sampling::{LogitsRow, TokenState};
use playhouse_types::{Admitted, BlockId, BlockSize, Logits, Run, SamplingParams, TokenId};

use crate::output::Output;

/// The state of one sequence in its slot.
pub(crate) struct SequenceState {
    /// Prompt and output.
    tokens: Vec<TokenId>,
    prompt_tokens: usize,
    /// Leading tokens whose keys and values are in the cache.
    cached: usize,
    blocks: Vec<BlockId>,
    block_size: BlockSize,
    sampling: Arc<SamplingParams>,
    state: TokenState,
    /// Token that the rank with the logits sampled last, until a run appends it.
    sampled: Option<TokenId>,
}

// === impl SequenceState ===

impl SequenceState {
    pub(crate) fn new(admitted: Admitted, block_size: BlockSize) -> Self {
        let Admitted { slot, tokens, prompt_tokens, sampling, blocks } = admitted;
        let (known, prompt_tokens) = (tokens.len(), prompt_tokens as usize);
        assert!(0 < prompt_tokens && prompt_tokens <= known, "{slot}: {prompt_tokens} of {known}");
        let cached = blocks.len() * block_size.tokens();
        assert!(cached < known, "{slot}: {cached} tokens cached of {known}, nothing left to feed");
        let state = TokenState::new(&tokens, prompt_tokens, &sampling);
        let tokens = tokens.to_vec();
        Self { tokens, prompt_tokens, cached, blocks, block_size, sampling, state, sampled: None }
    }

    /// Adds a token to the sequence.
    pub(crate) fn append(&mut self, token: TokenId) {
        self.tokens.push(token);
        self.state.push(token);
    }

    /// Returns the token that was sampled last, on the rank that sampled it.
    pub(crate) fn last_sample(&self) -> Option<TokenId> {
        self.sampled
    }

    /// Adds the new blocks of a run; returns the positions to feed.
    ///
    /// # Panics
    /// When the run does not fit the sequence.
    pub(crate) fn begin(&mut self, run: &Run, kv_blocks: usize) -> Range<usize> {
        let slot = run.slot;
        let (start, fed) = (run.start as usize, run.tokens as usize);
        let (end, known) = (start + fed, self.tokens.len());
        assert!(fed > 0, "{slot}: a run of no tokens");
        assert!(start <= self.cached, "{slot}: run from {start}, cached up to {}", self.cached);
        assert!(end <= known, "{slot}: run up to {end}, known up to {known}");
        self.blocks.extend_from_slice(&run.new_blocks);
        let room = self.blocks.len() * self.block_size.tokens();
        assert!(end <= room, "{slot}: run up to {end}, blocks hold {room}");
        for block in &run.new_blocks {
            assert!((block.0 as usize) < kv_blocks, "{slot}: {block} of {kv_blocks}");
        }
        self.cached = self.cached.max(end);
        start..end
    }

    /// Returns the tokens to feed, with the outputs of some of their rows.
    pub(crate) fn chunk(&self, fed: Range<usize>, outputs: Range<usize>) -> Chunk<'_> {
        Chunk {
            start: fed.start,
            tokens: &self.tokens[fed],
            prompt_tokens: self.prompt_tokens,
            blocks: &self.blocks,
            outputs,
        }
    }

    /// Returns the rows whose outputs are wanted of the run with an index, and the use of each output.
    pub(crate) fn outputs(&self, index: usize, run: &Run) -> (Range<usize>, Vec<Output>) {
        let (start, fed) = (run.start as usize, run.tokens as usize);
        let at_end = start + fed == self.tokens.len();
        let (wanted, sample) = match run.logits {
            Logits::None => (0..0, false),
            Logits::Last => {
                assert!(at_end, "{}: sampling from a token before the last", run.slot);
                (fed - 1..fed, true)
            }
            Logits::All => {
                // The last prompt token predicts no prompt token.
                let predicting = (self.prompt_tokens - 1).saturating_sub(start).min(fed);
                match (predicting, at_end) {
                    (0, true) => (fed - 1..fed, true),
                    (_, true) => (0..fed, true),
                    (_, false) => (0..predicting, false),
                }
            }
        };
        let output = |row: usize| {
            let next = start + row + 1;
            let reported = run.logits == Logits::All && next < self.prompt_tokens;
            Output {
                run: index,
                prompt_token: reported.then(|| self.tokens[next]),
                sample: sample && row + 1 == fed,
            }
        };
        (wanted.clone(), wanted.map(output).collect())
    }

    /// Returns the request for the logits of an output.
    pub(crate) fn logits_row(&self, output: &Output) -> LogitsRow<'_> {
        let top = self.sampling.prompt_logprobs.unwrap_or(0);
        LogitsRow {
            reported: output.prompt_token.map(|token| (token, top)),
            sampled: output.sample.then_some((&*self.sampling, &self.state)),
        }
    }

    /// Stores the token that was sampled last.
    pub(crate) fn remember(&mut self, token: TokenId) {
        self.sampled = Some(token);
    }
}
