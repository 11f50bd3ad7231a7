//! Everything that distinguishes one decoder from another, decided once from `config.json`.
//!
//! The forward pass branches on a [`DecoderSpec`] and on nothing else (**A12**): a model family is
//! a value of it.

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// One entry per layer, first to last.
    pub layers: Vec<LayerSpec>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Rotary position embedding, the same in every layer.
    pub rope: Rope,
    /// The language-model head is the embedding table.
    pub tied_embeddings: bool,
    /// Positions the model was made for, rope scaling included.
    pub max_positions: usize,
}

/// One transformer layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// The attention block.
    pub attention: Attention,
    /// The feed-forward block.
    pub ffn: FeedForward,
    /// A token sees itself and the `window - 1` tokens before it; `None` sees all.
    pub window: Option<usize>,
}

/// Grouped-query attention. Multi-head attention is `kv_heads == heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// The output projection has a bias.
    pub out_bias: bool,
    /// Queries and keys pass an RMS norm per head before rope.
    pub qk_norm: bool,
}

/// A gated feed-forward block: `down(act(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForward {
    /// Width between the projections.
    pub inner: usize,
    /// All three projections have a bias.
    pub bias: bool,
    /// Applied to the gate.
    pub activation: Activation,
}

/// Non-linearity of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

/// Rotary position embedding in the half-split layout of Hugging Face: element `i` pairs with
/// element `i + head_dim / 2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies change with context length.
    pub scaling: RopeScaling,
}

/// Rope kinds, after `modeling_rope_utils.py` of Hugging Face transformers.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than `original_max` (dynamic NTK).
    ///
    /// Transformers derives the base from the longest position of a forward pass, so the tokens
    /// of a prompt share one base and each generated token has its own. Playhouse keeps that
    /// rule: the base of a position is that of length `max(position + 1, prompt length)`.
    Dynamic {
        /// Stretch of the context.
        factor: f64,
        /// Context length of training.
        original_max: usize,
    },
    /// Low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Stretch of the context.
        factor: f64,
        /// Wavelengths above `original_max / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of training.
        original_max: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Scales cosines and sines.
        attention_factor: f64,
        /// Rotations above which a dimension is extrapolated.
        beta_fast: f64,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f64,
        /// Context length of training.
        original_max: usize,
        /// Round the correction range to whole dimensions.
        truncate: bool,
    },
}

// === impl DecoderSpec ===

impl DecoderSpec {
    /// Number of weights, tied ones counted once.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let tables = if self.tied_embeddings { 1 } else { 2 };
        let layers: usize = self.layers.iter().map(|layer| layer.parameters(self.hidden)).sum();
        tables * self.vocab * self.hidden + layers + self.hidden
    }

    /// Elements (not bytes) that one token occupies in the KV caches of all layers.
    #[must_use]
    pub fn kv_elements_per_token(&self) -> usize {
        self.layers.iter().map(|layer| 2 * layer.attention.kv_width()).sum()
    }
}

impl LayerSpec {
    fn parameters(&self, hidden: usize) -> usize {
        let Attention { head_dim, qkv_bias, out_bias, qk_norm, .. } = self.attention;
        let (q, kv) = (self.attention.q_width(), self.attention.kv_width());
        let attention = hidden * (2 * q + 2 * kv)
            + if qkv_bias { q + 2 * kv } else { 0 }
            + if out_bias { hidden } else { 0 }
            + if qk_norm { 2 * head_dim } else { 0 };
        let FeedForward { inner, bias, .. } = self.ffn;
        let ffn = 3 * hidden * inner + if bias { 2 * inner + hidden } else { 0 };
        attention + ffn + 2 * hidden
    }
}

impl Attention {
    /// Width of all query heads.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
