//! Sequences: requests as the scheduler knows them.

use std::sync::Arc;
use std::time::Duration;

use playhouse_kvcache::HashChain;
use playhouse_types::{
    Appended, BlockId, BlockSize, Emission, FinishReason, GenerateRequest, Logits, RequestId,
    TokenId, TokenLogprobs,
};

use crate::{Emitted, HashedRequest, Limits, Terms, Timings};

/// The scheduling state of one request.
///
/// The *known* tokens of a sequence are the prompt and what was sampled since. The KV entries of the
/// first `computed` are in `blocks`, those of the first `planned` will be when the steps in flight are
/// applied. `computed <= planned`, and without a step in flight `planned < known`. A run that reaches
/// the last known token samples another, so `planned` can be ahead of `known` meanwhile.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) request: GenerateRequest,
    pub(crate) terms: Terms,
    /// The sampled tokens, all of them emitted. They survive the loss of the slot.
    pub(crate) generated: Vec<TokenId>,
    /// Hashes of the full blocks of known tokens; `None` without prefix caching.
    pub(crate) chain: Option<HashChain>,
    /// The number of positions whose KV entries are in the cache.
    pub(crate) computed: usize,
    /// The same number, once the steps in flight are applied.
    planned: usize,
    block_size: BlockSize,
    /// The block table; empty without a slot.
    pub(crate) blocks: Vec<BlockId>,
    /// The number of blocks, from the first, that were offered to the prefix index or came from it.
    pub(crate) published: usize,
    /// The number of tokens that the engine was told, or told to take from its own sampling.
    told: usize,
    /// The number of steps with this sequence that have not been applied.
    in_flight: usize,
    /// The number of prompt log-probabilities emitted: those of positions `1..=reported`.
    pub(crate) reported: usize,
    /// The position up to which an engine was computing this sequence when it died, until that position
    /// is passed.
    blamed_until: Option<usize>,
    /// The same position, for the second engine that died.
    pub(crate) suspect_until: Option<usize>,
    /// The number of tokens at which the sequence finishes for length.
    length_max: usize,
    /// The number of tokens from the prefix cache at the first admission.
    cached_tokens: Option<usize>,
    pub(crate) preemptions: u32,
    pub(crate) arrived: Duration,
    admitted: Option<Duration>,
    first_token: Option<Duration>,
}

// === impl Sequence ===

impl Sequence {
    pub(crate) fn new(
        request: HashedRequest,
        terms: Terms,
        limits: &Limits,
        now: Duration,
    ) -> Self {
        let (request, chain) = request.into_parts();
        let length_max = request.prompt.len() + request.sampling.max_tokens as usize;
        Self {
            block_size: limits.block_size,
            length_max: length_max.min(limits.context()),
            request,
            terms,
            generated: Vec::new(),
            chain,
            computed: 0,
            planned: 0,
            blocks: Vec::new(),
            published: 0,
            told: 0,
            in_flight: 0,
            reported: 0,
            blamed_until: None,
            suspect_until: None,
            cached_tokens: None,
            preemptions: 0,
            arrived: now,
            admitted: None,
            first_token: None,
        }
    }

    /// Creates a sequence that goes on behind what it has emitted.
    pub(crate) fn resumed(
        request: HashedRequest,
        terms: Terms,
        limits: &Limits,
        emitted: Emitted,
    ) -> Self {
        let Emitted { tokens, prompt_logprobs, cached_tokens, arrived, losses } = emitted;
        let mut sequence = Self::new(request, terms, limits, arrived);
        if let Some(chain) = &mut sequence.chain {
            chain.extend(&tokens);
        }
        (sequence.reported, sequence.cached_tokens) = (prompt_logprobs, cached_tokens);
        if !tokens.is_empty() {
            (sequence.admitted, sequence.first_token) = (Some(arrived), Some(arrived));
        }
        sequence.generated = tokens;
        // Its exact position is not known: at its next token at the latest.
        let until = Some(sequence.known() + 1);
        sequence.blamed_until = until.filter(|_| losses > 0);
        sequence.suspect_until = until.filter(|_| losses > 1);
        sequence
    }

    /// Returns the sort key of a sequence: by priority, then by arrival. Ids are counted up, so they
    /// order sequences that arrived at the same time.
    pub(crate) fn order(&self) -> (i32, Duration, RequestId) {
        (self.terms.priority, self.arrived, self.request.id)
    }

    /// Returns the time from which the sequence is expired: `None`, once it had a slot (**S-13**).
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.terms.deadline.filter(|_| self.admitted.is_none())
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.request.prompt.len()
    }

    pub(crate) fn known(&self) -> usize {
        self.prompt_len() + self.generated.len()
    }

    /// Returns the number of known tokens without an outcome yet.
    pub(crate) fn remaining(&self) -> usize {
        self.known() - self.computed
    }

    /// Returns whether a step with the sequence has not been applied.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Returns the number of tokens that there will be when the steps in flight are applied.
    fn expected(&self) -> usize {
        self.known().max(self.planned + 1)
    }

    /// Returns the number of tokens that another run could feed: those that are known, or, with
    /// `lookahead`, the token that a step in flight samples, unless that token brings the sequence to
    /// its full length.
    pub(crate) fn feedable(&self, lookahead: bool) -> usize {
        match self.known().saturating_sub(self.planned) {
            0 => usize::from(lookahead && self.expected() < self.length_max),
            known => known,
        }
    }

    /// Records that the next `tokens` tokens are in a plan. Returns the position of the first of them,
    /// the token that the engine has to append before, and the logits that it has to compute.
    pub(crate) fn plan(&mut self, tokens: usize) -> (usize, Appended, Logits) {
        let (start, end) = (self.planned, self.planned + tokens);
        let logits = self.logits(end);
        let appended = self.tell(end);
        self.planned = end;
        self.in_flight += 1;
        (start, appended, logits)
    }

    /// Returns all known tokens. Free of charge before the first token, a copy after a preemption.
    pub(crate) fn tokens(&self) -> Arc<[TokenId]> {
        if self.generated.is_empty() {
            return Arc::clone(&self.request.prompt);
        }
        self.request.prompt.iter().chain(&self.generated).copied().collect()
    }

    /// Returns what the engine has to be told before it can feed the tokens up to `end`.
    fn tell(&mut self, end: usize) -> Appended {
        let news = self.known().max(end) - self.told;
        assert!(news <= 1, "{} has {news} tokens that the engine does not know", self.request.id);
        self.told += news;
        match self.generated.last() {
            _ if news == 0 => Appended::Nothing,
            Some(&token) if end <= self.known() => Appended::Token(token),
            _ => Appended::OwnSample,
        }
    }

    /// Returns whether the next token has no room in the block table.
    pub(crate) fn needs_block(&self) -> bool {
        self.block_size.blocks_for(self.expected()) > self.blocks.len()
    }

    /// Returns whether the sequence will want another block if it runs to its full length. The last
    /// token is sampled but never fed, so it needs no room.
    pub(crate) fn may_grow(&self) -> bool {
        self.block_size.blocks_for(self.length_max - 1) > self.blocks.len()
    }

    /// Returns whether prompt log-probabilities are wanted and some have not been emitted.
    fn owes_prompt_logprobs(&self) -> bool {
        self.request.sampling.prompt_logprobs.is_some() && self.reported + 1 < self.prompt_len()
    }

    /// Returns the most tokens that a prefix hit may skip: a position whose log-probabilities are owed
    /// has to be computed.
    pub(crate) fn skippable(&self) -> usize {
        if self.owes_prompt_logprobs() { self.reported } else { usize::MAX }
    }

    /// Returns the logits that a run up to position `end` needs.
    fn logits(&self, end: usize) -> Logits {
        if self.reports(end) {
            Logits::All
        } else if end >= self.known() {
            Logits::Last
        } else {
            Logits::None
        }
    }

    /// Returns whether a run that ends before position `end` brings prompt log-probabilities that are
    /// owed.
    fn reports(&self, end: usize) -> bool {
        self.owes_prompt_logprobs() && end > self.reported
    }

    /// Records that the sequence was given a slot, and that its first `cached` tokens are in the cache.
    pub(crate) fn admit(&mut self, blocks: Vec<BlockId>, cached: usize, now: Duration) {
        self.blocks = blocks;
        self.computed = cached;
        self.planned = cached;
        self.told = self.known();
        self.published = self.block_size.full_blocks(cached);
        self.cached_tokens.get_or_insert(cached);
        self.admitted.get_or_insert(now);
    }

    /// Takes the slot from the sequence, and returns its blocks, to which the caller sees.
    pub(crate) fn release(&mut self) -> Vec<BlockId> {
        self.computed = 0;
        self.planned = 0;
        self.published = 0;
        self.in_flight = 0;
        std::mem::take(&mut self.blocks)
    }

    /// Records that the next `tokens` tokens were computed. Returns the position of the first of them.
    pub(crate) fn advance(&mut self, tokens: usize) -> usize {
        let start = self.computed;
        self.computed += tokens;
        self.in_flight -= 1;
        let ahead = |until: &usize| self.computed < *until;
        self.blamed_until = self.blamed_until.filter(ahead);
        self.suspect_until = self.suspect_until.filter(ahead);
        start
    }

    /// Blames the sequence for the death of an engine that was computing it. Returns whether that is
    /// once too often (**S-9**).
    pub(crate) fn blame(&mut self) -> bool {
        let until = Some(self.planned);
        if self.suspect_until.is_some() {
            return true;
        }
        match self.blamed_until {
            Some(_) => self.suspect_until = until,
            None => self.blamed_until = until,
        }
        false
    }

    /// Returns whether the next `tokens` tokens bring a sampled token, and how many prompt
    /// log-probabilities they bring, some of which may have been emitted before.
    pub(crate) fn expects(&self, tokens: usize) -> (bool, usize) {
        let (start, end) = (self.computed, self.computed + tokens);
        let prompt_logprobs = match self.reports(end) {
            true => end.min(self.prompt_len() - 1).saturating_sub(start),
            false => 0,
        };
        (end == self.known(), prompt_logprobs)
    }

    /// Takes the log-probabilities of the prompt tokens after `start` and returns those that have
    /// not been emitted yet: a recomputed chunk brings the old ones again.
    pub(crate) fn report(
        &mut self,
        start: usize,
        mut entries: Vec<TokenLogprobs>,
    ) -> Vec<TokenLogprobs> {
        entries.drain(..self.reported.saturating_sub(start).min(entries.len()));
        self.reported += entries.len();
        entries
    }

    /// Adds a sampled token, and returns the finish reason if it is the last one. Stop tokens come
    /// before lengths, as in vLLM.
    pub(crate) fn push(&mut self, token: TokenId, now: Duration) -> Option<FinishReason> {
        self.generated.push(token);
        self.first_token.get_or_insert(now);
        if let Some(chain) = &mut self.chain {
            chain.extend(&[token]);
        }
        let sampling = &self.request.sampling;
        let may_stop = self.generated.len() >= sampling.min_tokens as usize;
        if may_stop && sampling.stop_tokens.contains(&token) {
            return Some(FinishReason::Stop(token));
        }
        (self.known() >= self.length_max).then_some(FinishReason::Length)
    }

    /// Returns an emission without content yet.
    pub(crate) fn emission(&self) -> Emission {
        Emission {
            id: self.request.id,
            cached_tokens: as_u32(self.cached_tokens.unwrap_or(0)),
            prompt_logprobs: Vec::new(),
            token: None,
            finish: None,
        }
    }

    pub(crate) fn timings(&self, end: Duration) -> Timings {
        let since = |start: Duration, end: Duration| end.saturating_sub(start);
        Timings {
            id: self.request.id,
            queue: since(self.arrived, self.admitted.unwrap_or(end)),
            prefill: self
                .admitted
                .zip(self.first_token)
                .map(|(admitted, first)| since(admitted, first)),
            decode: self.first_token.map(|first| since(first, end)),
            prompt_tokens: self.prompt_len(),
            cached_tokens: self.cached_tokens.unwrap_or(0),
            generated_tokens: self.generated.len(),
            preemptions: self.preemptions,
        }
    }
}

/// Converts a position or a count of tokens of one sequence to the type of plans.
pub(crate) fn as_u32(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("a context has fewer than 2^32 tokens")
}
