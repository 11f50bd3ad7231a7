//! The sizes of a model: all that planning needs to know of a checkpoint.
//!
//! - **SH-1** every size of a shape that [`ModelShape::parse`] returns is within [`limits`].
//! - **SH-2** a `config.json` that is refused gives one [`ShapeError`] naming the key, what was found
//!   and what is expected. No content panics.
//! - **SH-3** [`ModelShape::parameters`] and [`ModelShape::checkpoint_bytes`] are exact for the
//!   families of the table in `family`; a foreign decoder is counted as Llama with its sizes, which
//!   [`ModelShape::note`] says, or refused where it has experts or latent attention.
//!
//! Not here: whether Playhouse can run the model (see `playhouse-model`).

mod family;
mod fields;
mod quantization;

use self::fields::{Fields, parse_object};
use crate::Inventory;
use crate::inventory::product;

/// Largest sizes a config may ask for: beyond the largest published models by an order of
/// magnitude, and small enough that no product of theirs overflows 64 bits.
pub mod limits {
    /// Transformer layers.
    pub const LAYERS: u64 = 1024;
    /// Query heads.
    pub const HEADS: u64 = 4096;
    /// Width of a head, and of its parts.
    pub const HEAD_DIM: u64 = 1024;
    /// Rank of a compressed projection.
    pub const RANK: u64 = 16_384;
    /// Width of the residual stream.
    pub const HIDDEN: u64 = 131_072;
    /// Width between the feed-forward projections.
    pub const INNER: u64 = 1 << 20;
    /// Experts of a layer.
    pub const EXPERTS: u64 = 4096;
    /// Tokens in the vocabulary.
    pub const VOCAB: u64 = 4 << 20;
    /// Positions.
    pub const POSITIONS: u64 = 1 << 30;
}

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
    /// How the matrices of attention and feed-forward are stored.
    pub weights: WeightType,
    /// How everything else is stored: embeddings, head, norms, biases, routers. Equals `weights`
    /// when nothing is quantized.
    pub plain: WeightType,
    /// Parts of tensor names that quantization leaves alone, such as `self_attn` or
    /// `model.layers.3.mlp` (`modules_to_not_convert`).
    pub unquantized: Vec<String>,
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
        /// What the shared experts give is scaled by a gate of its own (Qwen2-MoE).
        shared_gate: bool,
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
        /// An index of the group of each input is stored (`gptq`).
        index: bool,
    },
    /// Small floats or integers that are made of plain weights: a scale for each block of a row.
    Packed {
        /// Bits of a weight.
        bits: u8,
        /// Inputs that share a scale; 0 means all.
        block: u64,
        /// Bytes of a scale.
        scale_bytes: u64,
    },
}

/// Why a `config.json` was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The file is not JSON, or its top level is no object.
    #[error("config.json: expected a JSON object: {0}")]
    Json(String),
    /// A value cannot be used.
    #[error("config.json: key `{key}`: found {found}, expected {expected}")]
    Key {
        /// Path of the key within the file.
        key: String,
        /// Its value, shortened.
        found: String,
        /// What would be accepted.
        expected: String,
    },
}

// === impl ModelShape ===

impl ModelShape {
    /// Reads the text of a `config.json`.
    ///
    /// Known families keep the defaults of their config classes in transformers; of any other
    /// decoder the standard keys are required. A multimodal file is read at its `text_config`.
    ///
    /// # Errors
    /// When a size is missing or out of [`limits`], the quantization is unknown, the model has an
    /// encoder, or an unknown family has experts or latent attention (**SH-2**).
    pub fn parse(config_json: &[u8]) -> Result<Self, ShapeError> {
        let map = parse_object(config_json)?;
        let top = Fields::new(&map);
        let text = top.object("text_config")?.filter(|_| top.value("hidden_size").is_none());
        family::shape(&top, text.as_ref().unwrap_or(&top))
    }

    /// What to know of a shape whose family is not in the table; `None` where its layers are known.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        (!family::is_known(&self.architecture)).then(|| {
            format!(
                "{} is read as Llama with its sizes: norms, biases, windows and whatever else its \
                 layers have are not counted",
                self.architecture
            )
        })
    }

    /// Weights of the model, each counted once: a tied head adds none. Without the extra layers of
    /// multi-token prediction.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        Inventory::of(self).total(crate::Weight::parameters)
    }

    /// Bytes of the tensors of a checkpoint of this shape, scales and zero points included.
    #[must_use]
    pub fn checkpoint_bytes(&self) -> u64 {
        Inventory::of(self).total(crate::Weight::bytes)
    }

    /// Whether a layer routes to experts.
    #[must_use]
    pub fn is_moe(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer.ffn, FfnShape::Moe { .. }))
    }
}

// === impl WeightType ===

impl WeightType {
    /// Bytes of one plain value; a quantized type is unpacked to two.
    #[must_use]
    pub fn plain_bytes(self) -> u64 {
        match self {
            WeightType::F32 => 4,
            _ => 2,
        }
    }

    /// Bytes of a matrix, scales, zero points and group indices included.
    pub(crate) fn matrix_bytes(self, outputs: u64, inputs: u64) -> u64 {
        let values = product(&[outputs, inputs]);
        match self {
            WeightType::F32 => product(&[values, 4]),
            WeightType::F16 | WeightType::Bf16 => product(&[values, 2]),
            // A scale is an f32.
            WeightType::Fp8 { block } => {
                let scales = block.map_or(1, |(rows, columns)| {
                    product(&[outputs.div_ceil(rows.max(1)), inputs.div_ceil(columns.max(1))])
                });
                values.saturating_add(product(&[scales, 4]))
            }
            WeightType::Packed { bits, block, scale_bytes } => {
                let blocks = if block == 0 { 1 } else { inputs.div_ceil(block) };
                let packed = product(&[values, u64::from(bits)]).div_ceil(8);
                packed.saturating_add(product(&[blocks, outputs, scale_bytes]))
            }
            // Values and zero points are packed, a scale is an f16, an index of a group an i32.
            WeightType::Int { bits, group, index } => {
                let packed = |values: u64| product(&[values, u64::from(bits)]).div_ceil(8);
                let groups = if group == 0 { 1 } else { inputs.div_ceil(group) };
                let scales = product(&[groups, outputs]);
                let indices = if index { product(&[inputs, 4]) } else { 0 };
                [packed(values), packed(scales), product(&[scales, 2]), indices]
                    .into_iter()
                    .fold(0, u64::saturating_add)
            }
        }
    }
}
