//! Keys and values of every layer.

use candle_core::DType;
use playhouse_ops::KvLayer;
use playhouse_types::{Attention, BLOCK_TOKENS, DecoderSpec, LayerSpec};

use crate::ForwardError;

/// The paged KV cache of a model: `blocks` blocks of [`BLOCK_TOKENS`] tokens, in each layer.
///
/// It stores and does not know what is valid: who owns a block is decided elsewhere (see
/// `playhouse-kvcache`).
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<KvLayer>,
}

// === impl KvCache ===

impl KvCache {
    /// A cache for the layers of `spec`, in the element type of the model. Memory is taken from the
    /// operating system as blocks are used.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn new(spec: &DecoderSpec, blocks: usize, dtype: DType) -> Result<Self, ForwardError> {
        let layer = |layer: &LayerSpec| {
            let Attention::Gqa(gqa) = layer.attention else {
                candle_core::bail!("a cache for latent attention is not there yet");
            };
            KvLayer::zeros(blocks, gqa.kv_heads, gqa.head_dim, dtype)
        };
        let layers = spec.layers.iter().map(layer).collect::<candle_core::Result<_>>()?;
        Ok(Self { layers })
    }

    /// Bytes that one block occupies, all layers together.
    #[must_use]
    pub fn bytes_per_block(spec: &DecoderSpec, dtype: DType) -> usize {
        let elements: usize = spec.layers.iter().map(|layer| layer.attention.kv_elements()).sum();
        BLOCK_TOKENS * elements * dtype.size_in_bytes()
    }
}
