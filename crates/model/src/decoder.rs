//! The forward pass of all model families.
//!
//! - **M-1** the bits of a row depend on its sequence alone: not on the batch, the chunking, the
//!   blocks or the thread count (**G2**; the ops guarantee it, see **OP-1**).
//! - **M-2** values are rounded to the element type where Hugging Face transformers rounds them,
//!   except for logits, which stay f32 (see [`Model::logits`]).

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use playhouse_collectives::{CollectiveError, Communicator};
use playhouse_layout::{GroupKind, Part, Share};
use playhouse_ops::sampling::{LogitsRow, RowOutcome, sample_rows};
use playhouse_ops::{
    Context, KvLayer, Ragged, RopeRows, Sequence, add, embedding, linear, linear_f32,
    paged_attention, rms_norm, rope_and_store, silu_mul,
};
use playhouse_types::{BlockId, BlockSize, DecoderSpec, LayerSpec, NormKind, NormPlace, TokenId};

use crate::rope::RopeTable;
use crate::weights::{DenseWeights, GqaWeights, HeadWeights, LayerWeights, Linear};
use crate::{Groups, KvCache, Weights};

/// Rows of logits in memory at a time: with a vocabulary of 150,000 they take 38 MB, where those of a whole
/// prompt with log-probabilities would take gigabytes.
const LOGITS_ROWS_MAX: usize = 64;

/// A decoder that is ready to run. Can be shared freely, because it does not change.
#[derive(Debug)]
pub struct Model {
    /// Spec of the shard.
    spec: DecoderSpec,
    weights: Weights,
    /// One table for each of the spec's ropes.
    ropes: Vec<RopeTable>,
    /// The ranks that hold the other shares of the same layers.
    tensor: Communicator,
    /// The ranks that hold the same share of other layers, by stage.
    pipeline: Communicator,
    context: Context,
}

/// Consecutive tokens of one sequence to feed through the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The tokens; at least one.
    pub tokens: &'a [TokenId],
    /// Position of the first token. Every token before it is in the cache.
    pub start: usize,
    /// Length of the sequence's prompt, on which dynamic rope depends.
    pub prompt_tokens: usize,
    /// The block table, covering at least `start + tokens.len()` tokens.
    pub blocks: &'a [BlockId],
    /// Range of the tokens whose outputs are wanted.
    pub outputs: Range<usize>,
}

/// The normalised outputs of the last layer for the wanted tokens: `[wanted, hidden]`.
#[derive(Clone, Debug)]
pub struct Hidden(Tensor);

/// A failed forward pass. A retry would fail again.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// An input that does not fit the model, or too little memory.
    #[error("forward pass: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Another rank is lost.
    #[error("forward pass: {0}")]
    Rank(#[from] CollectiveError),
}

/// The input that all layers of one step share.
struct Step<'a> {
    ragged: Ragged<'a>,
    /// Rows of each of the spec's ropes.
    ropes: Vec<RopeRows>,
}

// === impl Model ===

impl Model {
    /// Returns a model of `weights` made for `spec`, computing in `context` and with the other ranks of
    /// `groups`.
    ///
    /// # Panics
    /// When the groups do not fit the shard.
    #[must_use]
    pub fn new(spec: &DecoderSpec, weights: Weights, groups: Groups, context: Context) -> Self {
        let shard = weights.shard();
        let Share { stage, attention, dense, embedding, head, .. } = *shard.share();
        assert!(
            [dense, embedding, head].iter().all(|part| *part == attention),
            "one width for all"
        );
        let (tensor, pipeline) = (groups.get(GroupKind::Tensor), groups.get(GroupKind::Pipeline));
        for (group, Part { at, of }) in [(&tensor, attention), (&pipeline, stage)] {
            let place = (group.rank(), group.size());
            assert_eq!(place, (at as usize, of as usize), "the group is the shard's");
        }
        let spec = shard.spec(spec);
        let ropes = spec.ropes.iter().map(RopeTable::new).collect();
        Self { spec, weights, ropes, tensor, pipeline, context }
    }

    /// Returns the spec of the model: the shard's part of the decoder.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Returns the element type of weights, activations and cache.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// Returns whether this rank has the logits: the first rank of the tensor group of the last stage.
    #[must_use]
    pub fn has_logits(&self) -> bool {
        self.weights.head.is_some() && self.tensor.rank() == 0
    }

    /// Feeds a ragged batch of chunks, of different sequences, and stores their keys and values in `cache`.
    /// The last stage returns the wanted outputs in the order of chunks, then tokens; every other stage
    /// returns none and sends its activations to the next stage. All ranks must feed the same chunks in the
    /// same order.
    ///
    /// # Errors
    /// When a token, block or position does not fit, or another rank is lost.
    pub fn forward(
        &self,
        chunks: &[Chunk<'_>],
        cache: &KvCache,
    ) -> Result<Option<Hidden>, ForwardError> {
        let positions = || {
            chunks.iter().flat_map(|chunk| {
                (0..chunk.tokens.len()).map(|row| (chunk.start + row, chunk.prompt_tokens))
            })
        };
        let ropes = self.ropes.iter().map(|rope| rope.rows(positions())).collect();
        let step = Step { ragged: ragged(chunks, cache.block_size)?, ropes };
        let tokens: Vec<_> = chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()).collect();
        let mut x = self.enter(&tokens)?;
        let layers = self.spec.layers.iter().zip(&self.weights.layers).zip(&cache.layers);
        for ((spec, weights), kv) in layers {
            x = self.layer(&x, spec, weights, kv, &step)?;
        }
        let Some(HeadWeights { norm, .. }) = &self.weights.head else {
            self.pipeline.send(&x, self.pipeline.rank() + 1)?;
            return Ok(None);
        };
        let wanted = x.index_select(&wanted_rows(chunks)?, 0)?;
        Ok(Some(Hidden(self.norm(&wanted, norm)?)))
    }

    /// Returns the input of the shard's first layer: embeddings, or the activations that the stage before
    /// sent.
    fn enter(&self, tokens: &[TokenId]) -> Result<Tensor, ForwardError> {
        let Some(table) = &self.weights.embedding else {
            let shape = (tokens.len(), self.spec.hidden);
            let before = self.pipeline.rank() - 1;
            return Ok(self.pipeline.recv(shape, self.dtype(), before)?);
        };
        let vocab = self.spec.vocab;
        let held = self.weights.shard().embedding_rows(vocab);
        Ok(self.tensor.all_reduce(embedding(table, tokens, held, vocab)?)?)
    }

    /// Reports and samples as `wanted` asks for each output of `hidden`, on the rank that [has the
    /// logits](Self::has_logits). The other ranks of its group take part with as many rows, and get nothing.
    ///
    /// # Errors
    /// When the number of outputs differs from the number of requests, memory is too small, or another rank
    /// is lost.
    pub fn sample(
        &self,
        hidden: &Hidden,
        wanted: &[LogitsRow<'_>],
    ) -> Result<Option<Vec<RowOutcome>>, ForwardError> {
        let mut outcomes = self.has_logits().then(|| Vec::with_capacity(wanted.len()));
        let mut first = 0;
        for part in wanted.chunks(LOGITS_ROWS_MAX) {
            let logits = self.logits(hidden, first..first + part.len())?;
            first += part.len();
            if let (Some(outcomes), Some(logits)) = (&mut outcomes, logits) {
                outcomes.extend(sample_rows(&logits, part, &self.context)?);
            }
        }
        Ok(outcomes)
    }

    /// Returns the logits of the given outputs, `[outputs, vocab]`, on the rank that [has
    /// them](Self::has_logits). The other ranks of its group take part and get none.
    ///
    /// Transformers rounds logits to the element type. In bf16 that makes ties of near-equal logits and moves
    /// log-probabilities by up to 0.06; here logits stay as they are summed, in f32.
    ///
    /// # Errors
    /// When memory is too small, or another rank is lost.
    pub fn logits(
        &self,
        hidden: &Hidden,
        outputs: Range<usize>,
    ) -> Result<Option<Tensor>, ForwardError> {
        let Some(HeadWeights { head, .. }) = &self.weights.head else { return Ok(None) };
        let rows = hidden.0.narrow(0, outputs.start, outputs.len())?;
        let held = linear_f32(&rows, head, None, &self.context)?;
        let group = &self.tensor;
        if group.rank() > 0 {
            group.send(&held, 0)?;
            return Ok(None);
        }
        let mut parts = vec![held];
        let widths = self.weights.shard().head_shares(self.spec.vocab);
        for (from, &width) in widths.iter().enumerate().skip(1) {
            parts.push(group.recv((outputs.len(), width), DType::F32, from)?);
        }
        match parts.as_slice() {
            [whole] => Ok(Some(whole.clone())),
            parts => Ok(Some(Tensor::cat(parts, 1)?)),
        }
    }

    /// Shares the tokens that the rank with the logits has sampled, and returns them on every rank of its
    /// group. The other ranks pass equally many tokens, whose values do not matter.
    ///
    /// # Errors
    /// When another rank is lost.
    ///
    /// # Panics
    /// On a rank of a stage without logits.
    pub fn share_samples(&self, tokens: Vec<TokenId>) -> Result<Vec<TokenId>, ForwardError> {
        assert!(self.weights.head.is_some(), "a stage that does not sample is told its tokens");
        let group = &self.tensor;
        if group.size() == 1 {
            return Ok(tokens);
        }
        let count = tokens.len();
        let tokens = Tensor::from_vec(tokens, count, &Device::Cpu)?;
        Ok(group.broadcast(tokens, 0)?.to_vec1()?)
    }

    /// Computes one layer: `x` and the result are `[rows, hidden]`.
    fn layer(
        &self,
        x: &Tensor,
        spec: &LayerSpec,
        weights: &LayerWeights,
        kv: &KvLayer,
        step: &Step<'_>,
    ) -> Result<Tensor, ForwardError> {
        let NormPlace::Before = spec.norm_place;
        let normed = self.norm(x, &weights.attention_norm)?;
        let mixed = self.attention(&normed, spec, &weights.attention, kv, step)?;
        let x = add(x, &mixed, &self.context)?;
        let normed = self.norm(&x, &weights.feed_forward_norm)?;
        Ok(add(&x, &self.feed_forward(&normed, &weights.feed_forward)?, &self.context)?)
    }

    /// Computes grouped-query attention of normalised rows, all of `[rows, hidden]`.
    fn attention(
        &self,
        x: &Tensor,
        spec: &LayerSpec,
        weights: &GqaWeights,
        kv: &KvLayer,
        step: &Step<'_>,
    ) -> Result<Tensor, ForwardError> {
        let q = self.head_norm(self.project(x, &weights.query)?, weights.query_norm.as_ref())?;
        let k = self.head_norm(self.project(x, &weights.key)?, weights.key_norm.as_ref())?;
        let v = self.project(x, &weights.value)?;
        let (ragged, rope) = (&step.ragged, &step.ropes[spec.rope]);
        let q = rope_and_store(&q, &k, &v, rope, kv, ragged, &self.context)?;
        let scale = 1.0 / (kv.head_dim() as f32).sqrt();
        let mixed = paged_attention(&q, kv, ragged, scale, spec.window, &self.context)?;
        self.project_out(&mixed, &weights.out)
    }

    /// Computes `down(silu(gate(x)) * up(x))` of normalised rows, all of `[rows, hidden]`.
    fn feed_forward(&self, x: &Tensor, weights: &DenseWeights) -> Result<Tensor, ForwardError> {
        let (gate, up) = (self.project(x, &weights.gate)?, self.project(x, &weights.up)?);
        self.project_out(&silu_mul(&gate, &up, &self.context)?, &weights.down)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        match self.spec.norm {
            NormKind::Rms => rms_norm(x, weight, self.spec.norm_eps, &self.context),
        }
    }

    /// Normalises each head of `[rows, heads * head_dim]` on its own, if the family does; `weight` is
    /// `[head_dim]`.
    fn head_norm(&self, x: Tensor, weight: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let Some(weight) = weight else { return Ok(x) };
        let ((rows, width), head_dim) = (x.dims2()?, weight.dims1()?);
        let heads = x.reshape((rows * width / head_dim, head_dim))?;
        self.norm(&heads, weight)?.reshape((rows, width))
    }

    /// Computes a projection out of a block, whose inputs are spread over the tensor group. Partial sums are
    /// added in f32 and rounded once, like the sums of one rank.
    fn project_out(&self, x: &Tensor, weights: &Linear) -> Result<Tensor, ForwardError> {
        if self.tensor.size() == 1 {
            return Ok(self.project(x, weights)?);
        }
        let part = linear_f32(x, &weights.weight, weights.bias.as_ref(), &self.context)?;
        Ok(self.tensor.all_reduce(part)?.to_dtype(x.dtype())?)
    }

    fn project(&self, x: &Tensor, weights: &Linear) -> candle_core::Result<Tensor> {
        linear(x, &weights.weight, weights.bias.as_ref(), &self.context)
    }
}

// === impl Hidden ===

impl Hidden {
    /// Returns the number of outputs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.dims()[0]
    }

    /// Returns whether no output was wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn ragged<'a>(chunks: &[Chunk<'a>], block_size: BlockSize) -> candle_core::Result<Ragged<'a>> {
    let mut first_row = 0;
    let sequence = |chunk: &Chunk<'a>| {
        let rows = chunk.tokens.len();
        let sequence = Sequence { first_row, rows, start: chunk.start, blocks: chunk.blocks };
        first_row += rows;
        sequence
    };
    Ragged::new(chunks.iter().map(sequence).collect(), block_size)
}

/// Returns the rows of the step whose outputs are wanted.
fn wanted_rows(chunks: &[Chunk<'_>]) -> candle_core::Result<Tensor> {
    let mut first_row = 0;
    let mut wanted = Vec::new();
    for chunk in chunks {
        let rows = chunk.outputs.clone().map(|row| first_row + row);
        wanted.extend(rows.map(|row| u32::try_from(row).expect("a step has fewer than 2^32 rows")));
        first_row += chunk.tokens.len();
    }
    let count = wanted.len();
    Tensor::from_vec(wanted, count, &Device::Cpu)
}
