//! The sizes of a model: all that planning needs to know of a checkpoint.

/// The sizes that `config.json` gives, for dense, mixture-of-experts and latent-attention decoders.
/// Wider than what the engine runs: a layout can be planned for a model that Playhouse cannot serve.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// First entry of `architectures`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Rows of the embedding table.
    pub vocab: u64,
    /// Positions the model was made for.
    pub max_positions: u64,
    /// The language-model head is the embedding table.
    pub tied_embeddings: bool,
    /// First to last.
    pub layers: Vec<LayerShape>,
    /// How weights are stored.
    pub weights: WeightType,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// The attention block.
    pub attention: AttentionShape,
    /// The feed-forward block.
    pub ffn: FfnShape,
    /// Tokens that a token sees; `None` sees all.
    pub window: Option<u64>,
}

/// Attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionShape {
    /// Grouped-query attention; multi-head when `kv_heads == heads`.
    Gqa {
        /// Query heads.
        heads: u64,
        /// Key and value heads.
        kv_heads: u64,
        /// Width of a head.
        head_dim: u64,
        /// Query, key and value projections have a bias.
        qkv_bias: bool,
        /// The output projection has a bias.
        out_bias: bool,
        /// Queries and keys pass a norm per head.
        qk_norm: bool,
    },
    /// Multi-head latent attention (DeepSeek): one compressed KV vector per token, not split by
    /// heads.
    Mla {
        /// Query heads.
        heads: u64,
        /// Rank of the query projection; `None` projects at once.
        q_rank: Option<u64>,
        /// Width of the compressed keys and values.
        kv_rank: u64,
        /// Width of a head without rope.
        nope_dim: u64,
        /// Width of a head with rope, shared by all heads in the keys.
        rope_dim: u64,
        /// Width of a value head.
        v_dim: u64,
    },
}

/// Feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnShape {
    /// `down(act(gate(x)) * up(x))`.
    Dense {
        /// Width between the projections.
        inner: u64,
        /// The projections have a bias.
        bias: bool,
    },
    /// Routed experts.
    Moe {
        /// Logical experts.
        experts: u64,
        /// Experts of one token.
        top_k: u64,
        /// Width inside one expert.
        inner: u64,
        /// Width of the experts that every token passes; 0 for none.
        shared_inner: u64,
        /// Groups of which the router picks some first (`n_group`); 1 for none.
        groups: u64,
        /// The router adds a bias per expert before choosing (`e_score_correction_bias`).
        gate_bias: bool,
    },
}

/// Storage of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
    /// One byte and a scale per block (`fp8`); `block` is rows × columns, `None` one scale a tensor.
    Fp8 {
        /// Rows and columns that share a scale.
        block: Option<(u64, u64)>,
    },
    /// Grouped 4- or 8-bit integers (`awq`, `gptq`): a scale and a zero point per group.
    Int {
        /// Bits of a weight.
        bits: u8,
        /// Inputs that share a scale; 0 means all.
        group: u64,
    },
}
