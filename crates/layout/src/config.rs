//! What a checkpoint says about itself in `config.json` and `generation_config.json`.
//!
//! - **CF-1** a config that is accepted describes a decoder with every number within the bounds of
//!   [`limits`], and a divisor for every division that a forward pass makes.
//! - **CF-2** a config that is refused gives one [`ConfigError`], which names file, key, the value found and
//!   the values expected. No content of these files panics.
//! - **CF-3** a missing key means what Hugging Face transformers (5.23) takes it to mean: the default of the
//!   family's config class. A decoder of no family in the table is read as Llama with the sizes in the file,
//!   all of which must be there; [`ModelShape::note`] says so. Such a decoder is refused when it has experts
//!   or latent attention.
//!
//! Not here: whether Playhouse can run the model (see `playhouse-model`).

mod family;
mod fields;
mod generation;
mod quantization;
mod reader;
mod rope;
#[cfg(test)]
mod tests;

use playhouse_types::{DecoderSpec, FeedForward, TokenId};

use self::fields::{Fields, parse_object};
pub use self::generation::GenerationDefaults;
use crate::weight_type::WeightType;

/// Largest sizes that a config may ask for: beyond the largest published models by an order of magnitude, and
/// so small that no product of them overflows 64 bits.
pub mod limits {
    /// Transformer layers.
    pub const LAYERS: usize = 1024;
    /// Query heads.
    pub const HEADS: usize = 4096;
    /// Width of a head, and of its parts.
    pub const HEAD_DIM: usize = 1024;
    /// Rank of a compressed projection.
    pub const RANK: usize = 16_384;
    /// Width of the residual stream.
    pub const HIDDEN: usize = 131_072;
    /// Width between the feed-forward projections.
    pub const INNER: usize = 1 << 20;
    /// Experts of a layer.
    pub const EXPERTS: usize = 4096;
    /// Tokens in the vocabulary.
    pub const VOCAB: usize = 4 << 20;
    /// Positions, rope scaling included.
    pub const POSITIONS: usize = 1 << 30;
}

/// The file that a [`ModelShape`] is read from.
pub const CONFIG_FILE: &str = "config.json";

/// What `config.json` says about a decoder and about the storage of its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// The architecture of the family that `architectures` or else `model_type` names, or else the first entry
    /// of `architectures`.
    pub architecture: String,
    /// The decoder.
    pub spec: DecoderSpec,
    /// Storage of the matrices of attention and feed-forward.
    pub weights: WeightType,
    /// Storage of everything else: embeddings, head, norms, biases, routers. Equals `weights` when nothing is
    /// quantized.
    pub plain: WeightType,
    /// Parts of tensor names that quantization leaves alone, such as `self_attn` or
    /// `model.layers.3.mlp` (`modules_to_not_convert`).
    pub unquantized: Vec<String>,
    /// `dtype`, formerly `torch_dtype`: the type the model is meant to run in. Without one, `plain` is
    /// taken to be [`WeightType::Bf16`].
    pub dtype: Option<WeightType>,
    /// End-of-sequence tokens, unless `generation_config.json` names its own.
    pub eos_token_ids: Vec<TokenId>,
}

/// Why a config file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not JSON, or its top level is no object.
    #[error("{file}: expected a JSON object: {reason}")]
    Json {
        /// File name.
        file: &'static str,
        /// The parser's message, with line and column.
        reason: String,
    },
    /// A value cannot be used.
    #[error("{file}: key `{key}`: found {found}, expected {expected}")]
    Key {
        /// File name.
        file: &'static str,
        /// Path of the key within the file.
        key: String,
        /// The value, shortened.
        found: String,
        /// The values that would be accepted.
        expected: String,
    },
}

// === impl ModelShape ===

impl ModelShape {
    /// Reads the text of a `config.json` of any decoder (**CF-3**). Of a multimodal file, `text_config` is
    /// read.
    ///
    /// # Errors
    /// When a size is missing or out of [`limits`], the quantization is unknown, the model has an
    /// encoder, or an unknown family has experts or latent attention (**CF-2**).
    pub fn parse(config_json: &[u8]) -> Result<Self, ConfigError> {
        let map = parse_object(CONFIG_FILE, config_json)?;
        let top = Fields::new(CONFIG_FILE, &map);
        let text = top.object("text_config")?.filter(|_| top.value("hidden_size").is_none());
        reader::shape(&top, text.as_ref().unwrap_or(&top))
    }

    /// Reads the text of a `config.json` whose architecture is in `architectures`, which are of known families,
    /// and whose weights are plain.
    ///
    /// # Errors
    /// As [`ModelShape::parse`]; and when the architecture is another one, or the weights are quantized.
    pub fn parse_plain(
        config_json: &[u8],
        architectures: &[&'static str],
    ) -> Result<Self, ConfigError> {
        let map = parse_object(CONFIG_FILE, config_json)?;
        let fields = Fields::new(CONFIG_FILE, &map);
        for key in ["quantization_config", "compression_config"] {
            if fields.value(key).is_some() {
                return Err(fields.refuse(key, "unquantized bf16, f16 or f32 weights"));
            }
        }
        reader::require_family(&fields, architectures)?;
        reader::shape(&fields, &fields)
    }

    /// Returns a warning for a shape whose family is not in the table; `None` when the table has the family.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        (!reader::is_known(&self.architecture)).then(|| {
            format!(
                "{} is read as Llama with its sizes: norms, biases, windows and whatever else its \
                 layers have are not counted",
                self.architecture
            )
        })
    }

    /// Returns whether the model has a layer that routes to experts.
    #[must_use]
    pub fn is_moe(&self) -> bool {
        let routes = |layer: &playhouse_types::LayerSpec| {
            matches!(layer.feed_forward, FeedForward::Moe { .. })
        };
        self.spec.layers.iter().any(routes)
    }
}
