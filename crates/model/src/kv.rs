//! Keys and values of every layer.

use candle_core::DType;
use playhouse_ops::KvLayer;
use playhouse_types::{BLOCK_TOKENS, DecoderSpec, LayerSpec};

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
            let attention = &layer.attention;
            KvLayer::zeros(blocks, attention.kv_heads, attention.head_dim, dtype)
        };
        let layers = spec.layers.iter().map(layer).collect::<candle_core::Result<_>>()?;
        Ok(Self { layers })
    }

    /// Bytes that one block occupies, all layers together.
    #[must_use]
    pub fn bytes_per_block(spec: &DecoderSpec, dtype: DType) -> usize {
        BLOCK_TOKENS * spec.kv_elements_per_token() * dtype.size_in_bytes()
    }
}
