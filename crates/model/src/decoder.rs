//! The forward pass of every family.
//!
//! - **M-1** the bits of a row depend on its sequence alone: not on the batch, the chunking, the
//!   blocks or the thread count (**G2**; the ops guarantee it, see **OP-1**).
//! - **M-2** values are rounded to the element type where Hugging Face transformers rounds them,
//!   except for logits, which stay f32 (see [`Model::logits`]).

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use playhouse_collectives::{CollectiveError, Communicator};
use playhouse_layout::{GroupKind, Part, Share};
use playhouse_ops::{
    KvLayer, Ragged, RopeRows, Sequence, Threads, add, embedding, linear, linear_f32,
    paged_attention, rms_norm, rope_and_store, silu_mul,
};
use playhouse_types::{Activation, BlockId, DecoderSpec, LayerSpec, TokenId};

use crate::rope::RopeTable;
use crate::weights::{HeadWeights, LayerWeights, Linear};
use crate::{Groups, KvCache, Weights};

/// A decoder ready to run. Shared freely: it does not change.
#[derive(Debug)]
pub struct Model {
    /// Of the shard.
    spec: DecoderSpec,
    weights: Weights,
    rope: RopeTable,
    /// The ranks that hold the other shares of the same layers.
    tensor: Communicator,
    /// The ranks that hold the same share of other layers, by stage.
    pipeline: Communicator,
    threads: Threads,
}

/// Consecutive tokens of one sequence to feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// At least one.
    pub tokens: Vec<TokenId>,
    /// Position of the first. Everything before it is in the cache.
    pub start: usize,
    /// Length of the sequence's prompt, on which dynamic rope depends.
    pub prompt_tokens: usize,
    /// The block table, covering at least `start + tokens.len()` tokens.
    pub blocks: Vec<BlockId>,
    /// Which of the tokens' outputs are wanted.
    pub outputs: Range<usize>,
}

/// What the last layer says about the wanted tokens, normalised: `[wanted, hidden]`.
#[derive(Clone, Debug)]
pub struct Hidden(Tensor);

/// A failed forward pass. Retrying is futile.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// An input that does not fit the model, or no memory.
    #[error("forward pass: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Another rank is lost.
    #[error("forward pass: {0}")]
    Rank(#[from] CollectiveError),
}

/// What the layers of one step share.
struct Step {
    ragged: Ragged,
    rope: RopeRows,
}

// === impl Model ===

impl Model {
    /// A model of `weights` made for `spec`, computing on `threads` and with the other ranks of
    /// `groups`.
    ///
    /// # Panics
    /// When layers differ in `head_dim`: rope has one. When the groups do not fit the shard.
    #[must_use]
    pub fn new(spec: &DecoderSpec, weights: Weights, groups: Groups, threads: Threads) -> Self {
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
        let mut widths = spec.layers.iter().map(|layer| layer.attention.head_dim);
        let head_dim = widths.next().expect("a decoder has layers");
        assert!(widths.all(|width| width == head_dim), "layers differ in head_dim");
        let rope = RopeTable::new(&spec.rope, head_dim);
        Self { spec, weights, rope, tensor, pipeline, threads }
    }

    /// What it is made of: the shard's part of the decoder.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Element type of weights, activations and cache.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// This rank has the logits: the first of the tensor group of the last stage.
    #[must_use]
    pub fn has_logits(&self) -> bool {
        self.weights.head.is_some() && self.tensor.rank() == 0
    }

    /// Feeds a ragged batch of chunks, of different sequences, and leaves their keys and values in
    /// `cache`. The wanted outputs come back in the order of chunks, then tokens; from the last
    /// stage only, as the others send what they have to the next. All ranks are to feed the same
    /// chunks in the same order.
    ///
    /// # Errors
    /// When a token, block or position does not fit, or another rank is lost.
    pub fn forward(
        &self,
        chunks: &[Chunk],
        cache: &KvCache,
    ) -> Result<Option<Hidden>, ForwardError> {
        let positions = chunks.iter().flat_map(|chunk| {
            (0..chunk.tokens.len()).map(|row| (chunk.start + row, chunk.prompt_tokens))
        });
        let step = Step { ragged: ragged(chunks)?, rope: self.rope.rows(positions) };
        let tokens: Vec<_> = chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()).collect();
        let mut x = self.enter(&tokens)?;
        let layers = self.spec.layers.iter().zip(&self.weights.layers).zip(&cache.layers);
        for ((spec, weights), kv) in layers {
            x = add(&x, &self.attention(&x, spec, weights, kv, &step)?, &self.threads)?;
            x = add(&x, &self.feed_forward(&x, spec, weights)?, &self.threads)?;
        }
        let Some(HeadWeights { norm, .. }) = &self.weights.head else {
            self.pipeline.send(&x, self.pipeline.rank() + 1)?;
            return Ok(None);
        };
        let wanted = x.index_select(&wanted_rows(chunks)?, 0)?;
        Ok(Some(Hidden(self.norm(&wanted, norm)?)))
    }

    /// What the first layer of the shard is fed: embeddings, or what the stage before sent.
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

    /// Logits of the given outputs, each `[vocab]`, on the rank that
    /// [has them](Self::has_logits); the others of its group take part and get none.
    ///
    /// Transformers rounds logits to the element type. In bf16 that makes ties of near-equal
    /// logits and moves log-probabilities by up to 0.06; here they stay as they are summed, in f32.
    ///
    /// # Errors
    /// When there is no memory, or another rank is lost.
    pub fn logits(
        &self,
        hidden: &Hidden,
        outputs: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, ForwardError> {
        let Some(HeadWeights { head, .. }) = &self.weights.head else { return Ok(Vec::new()) };
        let rows = hidden.0.narrow(0, outputs.start, outputs.len())?;
        let held = linear_f32(&rows, head, None, &self.threads)?;
        let group = &self.tensor;
        if group.rank() > 0 {
            group.send(&held, 0)?;
            return Ok(Vec::new());
        }
        let mut all: Vec<Vec<f32>> = held.to_vec2()?;
        let widths = self.weights.shard().head_shares(self.spec.vocab);
        for (from, &width) in widths.iter().enumerate().skip(1) {
            let held = group.recv((outputs.len(), width), DType::F32, from)?;
            for (row, part) in all.iter_mut().zip(held.to_vec2::<f32>()?) {
                row.extend(part);
            }
        }
        Ok(all)
    }

    /// The tokens that the rank with the logits has sampled, on every rank of its group. The others
    /// pass as many tokens, which do not matter.
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

    /// `out(attention(norm(x)))`, all of `[rows, hidden]`.
    fn attention(
        &self,
        x: &Tensor,
        spec: &LayerSpec,
        weights: &LayerWeights,
        kv: &KvLayer,
        step: &Step,
    ) -> Result<Tensor, ForwardError> {
        let x = self.norm(x, &weights.attention_norm)?;
        let head_dim = spec.attention.head_dim;
        let q = self.head_norm(self.project(&x, &weights.q)?, weights.q_norm.as_ref(), head_dim)?;
        let k = self.head_norm(self.project(&x, &weights.k)?, weights.k_norm.as_ref(), head_dim)?;
        let v = self.project(&x, &weights.v)?;
        let Step { ragged, rope } = step;
        let q = rope_and_store(&q, &k, &v, rope, kv, ragged, &self.threads)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mixed = paged_attention(&q, kv, ragged, scale, spec.window, &self.threads)?;
        self.project_out(&mixed, &weights.out)
    }

    /// `down(act(gate(norm(x))) * up(norm(x)))`, all of `[rows, hidden]`.
    fn feed_forward(
        &self,
        x: &Tensor,
        spec: &LayerSpec,
        weights: &LayerWeights,
    ) -> Result<Tensor, ForwardError> {
        let x = self.norm(x, &weights.ffn_norm)?;
        let (gate, up) = (self.project(&x, &weights.gate)?, self.project(&x, &weights.up)?);
        let gated = match spec.ffn.activation {
            Activation::Silu => silu_mul(&gate, &up, &self.threads)?,
        };
        self.project_out(&gated, &weights.down)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        rms_norm(x, weight, self.spec.norm_eps, &self.threads)
    }

    /// Normalises each head of `[rows, heads * head_dim]` on its own, if the family does.
    fn head_norm(
        &self,
        x: Tensor,
        weight: Option<&Tensor>,
        head_dim: usize,
    ) -> candle_core::Result<Tensor> {
        let Some(weight) = weight else { return Ok(x) };
        let (rows, width) = x.dims2()?;
        let heads = x.reshape((rows * width / head_dim, head_dim))?;
        self.norm(&heads, weight)?.reshape((rows, width))
    }

    /// A projection out of a block, whose inputs are spread over the tensor group. Partial sums are
    /// added in f32 and rounded once, as those of one rank are.
    fn project_out(&self, x: &Tensor, weights: &Linear) -> Result<Tensor, ForwardError> {
        if self.tensor.size() == 1 {
            return Ok(self.project(x, weights)?);
        }
        let part = linear_f32(x, &weights.weight, weights.bias.as_ref(), &self.threads)?;
        Ok(self.tensor.all_reduce(part)?.to_dtype(x.dtype())?)
    }

    fn project(&self, x: &Tensor, weights: &Linear) -> candle_core::Result<Tensor> {
        linear(x, &weights.weight, weights.bias.as_ref(), &self.threads)
    }
}

// === impl Hidden ===

impl Hidden {
    /// How many outputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.dims()[0]
    }

    /// Whether no output was wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn ragged(chunks: &[Chunk]) -> candle_core::Result<Ragged> {
    let mut first_row = 0;
    let sequence = |chunk: &Chunk| {
        let rows = chunk.tokens.len();
        let blocks = chunk.blocks.iter().map(|block| block.0).collect();
        let sequence = Sequence { first_row, rows, start: chunk.start, blocks };
        first_row += rows;
        sequence
    };
    Ragged::new(chunks.iter().map(sequence).collect())
}

/// Rows of the step whose outputs are wanted.
fn wanted_rows(chunks: &[Chunk]) -> candle_core::Result<Tensor> {
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
