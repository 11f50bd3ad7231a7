//! `config.json` and `generation_config.json`: what a checkpoint says about itself.
//!
//! - **CF-1** a config that is accepted describes a decoder that can run: every number is within
//!   the bounds of [`limits`], every division the forward pass makes has a divisor.
//! - **CF-2** a config that is refused gives one [`ConfigError`] naming file, key, what was found
//!   and what is expected. No content of these files panics.
//! - **CF-3** a missing key means what it means to Hugging Face transformers (5.23): the default of
//!   the family's config class.
//!
//! Not here: weights (see [`crate::Weights`]).

mod family;
mod fields;
mod generation;
mod rope;
#[cfg(test)]
mod tests;

use playhouse_types::{DecoderSpec, TokenId};
use sha2::{Digest, Sha256};

use self::fields::{Fields, parse_object};
pub use self::generation::GenerationDefaults;
use crate::{Checkpoint, CheckpointError, Dtype};

/// Largest sizes a config may ask for. Beyond the largest published models by an order of
/// magnitude; below anything that overflows or exhausts memory before a weight is read.
pub mod limits {
    /// Transformer layers.
    pub const LAYERS: usize = 1024;
    /// Query heads.
    pub const HEADS: usize = 4096;
    /// Width of a head.
    pub const HEAD_DIM: usize = 1024;
    /// Width of the residual stream.
    pub const HIDDEN: usize = 131_072;
    /// Width between the feed-forward projections.
    pub const INNER: usize = 1 << 20;
    /// Tokens in the vocabulary.
    pub const VOCAB: usize = 4 << 20;
    /// Positions, rope scaling included.
    pub const POSITIONS: usize = 1 << 30;
}

/// What `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The entry of `architectures` that Playhouse knows, such as `Qwen3ForCausalLM`.
    pub architecture: &'static str,
    /// The decoder.
    pub spec: DecoderSpec,
    /// `dtype`, formerly `torch_dtype`: the type the model is meant to run in.
    pub dtype: Option<Dtype>,
    /// End-of-sequence tokens, unless `generation_config.json` names its own.
    pub eos_token_ids: Vec<TokenId>,
}

/// Why a config file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be had.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
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
        /// Its value, shortened.
        found: String,
        /// What would be accepted.
        expected: String,
    },
}

// === impl ModelConfig ===

impl ModelConfig {
    /// The file's name.
    pub const FILE: &'static str = "config.json";

    /// Reads `config.json` of a checkpoint.
    ///
    /// # Errors
    /// When it is missing or describes no decoder that Playhouse can run (**CF-2**).
    pub fn read(checkpoint: &Checkpoint) -> Result<Self, ConfigError> {
        Self::parse(&checkpoint.require(Self::FILE)?)
    }

    /// A digest of what it means for the tokens of a model, however the file spells that. Of the same
    /// release, the same decoder has the same digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let Self { architecture, spec, dtype, .. } = self;
        Sha256::digest(format!("{architecture} {spec:?} {dtype:?}")).into()
    }

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// When it describes no decoder that Playhouse can run (**CF-2**).
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let map = parse_object(Self::FILE, json)?;
        let fields = Fields::new(Self::FILE, &map);
        for key in ["quantization_config", "compression_config"] {
            if fields.value(key).is_some() {
                return Err(fields.refuse(key, "unquantized bf16, f16 or f32 weights"));
            }
        }
        let family = family::find(&fields)?;
        let spec = family.decoder(&fields)?;
        let eos = match fields.tokens("eos_token_id", spec.vocab)? {
            Some(ids) => ids,
            None if fields.has("eos_token_id") => Vec::new(),
            None => family.default_eos(spec.vocab),
        };
        Ok(Self {
            architecture: family.architecture,
            dtype: dtype(&fields)?,
            eos_token_ids: eos,
            spec,
        })
    }
}

fn dtype(fields: &Fields<'_>) -> Result<Option<Dtype>, ConfigError> {
    let key = if fields.value("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match fields.text(key)? {
        None | Some("auto") => Ok(None),
        Some("bfloat16") => Ok(Some(Dtype::Bf16)),
        Some("float16") => Ok(Some(Dtype::F16)),
        Some("float32") => Ok(Some(Dtype::F32)),
        Some(_) => Err(fields.refuse(key, "bfloat16, float16 or float32")),
    }
}
