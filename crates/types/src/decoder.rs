//! Everything that distinguishes one decoder from another, decided once from `config.json`.
//!
//! The forward pass branches on a [`DecoderSpec`] and on nothing else (**A12**): a model family is a value of
//! that type.

/// A decoder-only transformer. Describes more than the engine runs: a layout can also be planned for a model
/// that Playhouse cannot serve.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// One entry per layer, first to last.
    pub layers: Vec<LayerSpec>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Kind of every norm.
    pub norm: NormKind,
    /// Epsilon of every norm.
    pub norm_eps: f32,
    /// The rotary position embeddings that layers choose from ([`LayerSpec::rope`]); at least one.
    pub ropes: Vec<Rope>,
    /// Whether the language-model head is the embedding table.
    pub tied_embeddings: bool,
    /// Positions that the model was made for, rope scaling included.
    pub max_positions: usize,
}

/// One transformer layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// Position of the norms within the layer.
    pub norm_place: NormPlace,
    /// The attention block.
    pub attention: Attention,
    /// The feed-forward block.
    pub feed_forward: FeedForward,
    /// Index into [`DecoderSpec::ropes`] of the embedding that turns queries and keys.
    pub rope: usize,
    /// Sliding window: a token sees itself and the `window - 1` tokens before it; with `None`, all of them.
    pub window: Option<usize>,
}

/// The formula of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / rms(x) * weight` (arXiv 1910.07467).
    Rms,
}

/// The norms of a layer and their position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// One norm before attention and one before the feed-forward block: `x + f(norm(x))`.
    Before,
}

/// An attention block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Grouped-query attention.
    Gqa(Gqa),
    /// Multi-head latent attention.
    Mla(Mla),
}

/// Grouped-query attention. Multi-head attention is `kv_heads == heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gqa {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Whether query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// Whether queries and keys pass a norm per head before rope.
    pub qk_norm: bool,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed vector per token stands for
/// the keys and values of all heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mla {
    /// Query heads.
    pub heads: usize,
    /// Rank of the query projection; `None` for one full-rank matrix.
    pub q_rank: Option<usize>,
    /// Width of the compressed keys and values.
    pub kv_rank: usize,
    /// Width of the part of a head without rope.
    pub nope_dim: usize,
    /// Width of the part of a head with rope, which all heads share in the keys.
    pub rope_dim: usize,
    /// Width of a value head.
    pub v_dim: usize,
}

/// A feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// One gated block.
    Dense(Dense),
    /// Routed experts.
    Moe(Moe),
}

/// A gated feed-forward block: `down(act(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Width between the projections.
    pub inner: usize,
    /// Whether all three projections have a bias.
    pub bias: bool,
    /// Activation of the gate.
    pub activation: Activation,
}

/// A mixture of experts, each a gated block without biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moe {
    /// Logical experts.
    pub experts: usize,
    /// Experts that a token is routed to.
    pub top_k: usize,
    /// Width inside one expert.
    pub inner: usize,
    /// Width of the experts that every token passes; 0 for none.
    pub shared_inner: usize,
    /// Whether a gate of its own scales the output of the shared experts (Qwen2-MoE).
    pub shared_gate: bool,
    /// Groups of experts of which the router first picks some (`n_group`); 1 for none.
    pub groups: usize,
    /// Whether the router adds a bias per expert before choosing (`e_score_correction_bias`).
    pub correction_bias: bool,
    /// Activation of an expert's gate.
    pub activation: Activation,
}

/// Non-linearity of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
}

/// Rotary position embedding in the half-split layout of Hugging Face: element `i` pairs with
/// element `i + dims / 2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Width that is rotated: a head, or the part of a latent head that has rope.
    pub dims: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies with context length.
    pub scaling: RopeScaling,
}

/// Kinds of rope scaling, after `modeling_rope_utils.py` of Hugging Face transformers.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No scaling: frequencies as trained.
    Default,
    /// Positions are divided by `factor`.
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
    /// Low frequencies are divided by `factor`, high frequencies are kept, frequencies between are
    /// interpolated.
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
        /// Factor of cosines and sines.
        attention_factor: f64,
        /// Rotations above which a dimension is extrapolated.
        beta_fast: f64,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f64,
        /// Context length of training.
        original_max: usize,
        /// Whether the correction range is rounded to whole dimensions.
        truncate: bool,
    },
}

// === impl Attention ===

impl Attention {
    /// Returns the elements (not bytes) that a layer keeps in its KV cache for one token.
    #[must_use]
    pub fn kv_elements(&self) -> usize {
        match self {
            Self::Gqa(gqa) => 2 * gqa.kv_width(),
            Self::Mla(mla) => mla.kv_rank + mla.rope_dim,
        }
    }
}

// === impl Gqa ===

impl Gqa {
    /// Returns the width of all query heads together.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Returns the width of all key (or value) heads together.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
