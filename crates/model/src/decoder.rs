//! The forward pass of every family.
//!
//! - **M-1** the bits of a row depend on its sequence alone: not on the batch, the chunking, the
//!   blocks or the thread count (**G2**; the ops guarantee it, see **OP-1**).
//! - **M-2** values are rounded to the element type where Hugging Face transformers rounds them,
//!   except for logits, which stay f32 (see [`Model::logits`]).

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use playhouse_collectives::Communicator;
use playhouse_ops::{
    KvLayer, Ragged, RopeRows, Sequence, Threads, add, embedding, linear, linear_f32,
    paged_attention, rms_norm, rope_and_store, silu_mul,
};
use playhouse_types::{Activation, BlockId, DecoderSpec, LayerSpec, TokenId};

use crate::rope::RopeTable;
use crate::weights::{LayerWeights, Linear};
use crate::{KvCache, Weights};

/// A decoder ready to run. Shared freely: it does not change.
#[derive(Debug)]
pub struct Model {
    spec: DecoderSpec,
    weights: Weights,
    rope: RopeTable,
    communicator: Communicator,
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

/// A failed forward pass: an input that does not fit the model, or no memory. Retrying is futile.
#[derive(Debug, thiserror::Error)]
#[error("forward pass: {0}")]
pub struct ForwardError(#[from] candle_core::Error);

/// What the layers of one step share.
struct Step {
    ragged: Ragged,
    rope: RopeRows,
}

// === impl Model ===

impl Model {
    /// A model of `weights` made for `spec`, computing on `threads`.
    ///
    /// # Panics
    /// When layers differ in `head_dim`: rope has one.
    #[must_use]
    pub fn new(
        spec: DecoderSpec,
        weights: Weights,
        communicator: Communicator,
        threads: Threads,
    ) -> Self {
        let mut widths = spec.layers.iter().map(|layer| layer.attention.head_dim);
        let head_dim = widths.next().expect("a decoder has layers");
        assert!(widths.all(|width| width == head_dim), "layers differ in head_dim");
        let rope = RopeTable::new(&spec.rope, head_dim);
        Self { spec, weights, rope, communicator, threads }
    }

    /// What it is made of.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Element type of weights, activations and cache.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// Feeds a ragged batch of chunks, of different sequences, and leaves their keys and values in
    /// `cache`. The wanted outputs come back in the order of chunks, then tokens.
    ///
    /// # Errors
    /// When a token, block or position does not fit.
    pub fn forward(&self, chunks: &[Chunk], cache: &KvCache) -> Result<Hidden, ForwardError> {
        let positions = chunks.iter().flat_map(|chunk| {
            (0..chunk.tokens.len()).map(|row| (chunk.start + row, chunk.prompt_tokens))
        });
        let step = Step { ragged: ragged(chunks)?, rope: self.rope.rows(positions) };
        let tokens: Vec<_> = chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()).collect();
        let mut x = embedding(&self.weights.embedding, &tokens)?;
        let layers = self.spec.layers.iter().zip(&self.weights.layers).zip(&cache.layers);
        for ((spec, weights), kv) in layers {
            x = add(&x, &self.attention(&x, spec, weights, kv, &step)?, &self.threads)?;
            x = add(&x, &self.feed_forward(&x, spec, weights)?, &self.threads)?;
        }
        let wanted = x.index_select(&wanted_rows(chunks)?, 0)?;
        Ok(Hidden(self.norm(&wanted, &self.weights.norm)?))
    }

    /// Logits of the given outputs, each `[vocab]`.
    ///
    /// Transformers rounds logits to the element type. In bf16 that makes ties of near-equal
    /// logits and moves log-probabilities by up to 0.06; here they stay as they are summed, in f32.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn logits(
        &self,
        hidden: &Hidden,
        outputs: Range<usize>,
    ) -> Result<Vec<Vec<f32>>, ForwardError> {
        let rows = hidden.0.narrow(0, outputs.start, outputs.len())?;
        Ok(linear_f32(&rows, &self.weights.head, None, &self.threads)?.to_vec2()?)
    }

    /// `out(attention(norm(x)))`, all of `[rows, hidden]`.
    fn attention(
        &self,
        x: &Tensor,
        spec: &LayerSpec,
        weights: &LayerWeights,
        kv: &KvLayer,
        step: &Step,
    ) -> candle_core::Result<Tensor> {
        let x = self.norm(x, &weights.attention_norm)?;
        let head_dim = spec.attention.head_dim;
        let q = self.head_norm(self.project(&x, &weights.q)?, weights.q_norm.as_ref(), head_dim)?;
        let k = self.head_norm(self.project(&x, &weights.k)?, weights.k_norm.as_ref(), head_dim)?;
        let v = self.project(&x, &weights.v)?;
        let Step { ragged, rope } = step;
        let q = rope_and_store(&q, &k, &v, rope, kv, ragged, &self.threads)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mixed = paged_attention(&q, kv, ragged, scale, spec.window, &self.threads)?;
        Ok(self.communicator.all_reduce(self.project(&mixed, &weights.out)?)?)
    }

    /// `down(act(gate(norm(x))) * up(norm(x)))`, all of `[rows, hidden]`.
    fn feed_forward(
        &self,
        x: &Tensor,
        spec: &LayerSpec,
        weights: &LayerWeights,
    ) -> candle_core::Result<Tensor> {
        let x = self.norm(x, &weights.ffn_norm)?;
        let (gate, up) = (self.project(&x, &weights.gate)?, self.project(&x, &weights.up)?);
        let gated = match spec.ffn.activation {
            Activation::Silu => silu_mul(&gate, &up, &self.threads)?,
        };
        Ok(self.communicator.all_reduce(self.project(&gated, &weights.down)?)?)
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
