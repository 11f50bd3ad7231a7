//! Keys and values of every layer.

use candle_core::{DType, Result};
use playhouse_ops::KvLayer;
use playhouse_types::{Attention, BlockSize, DecoderSpec, LayerSpec};

/// The paged KV cache of a model: a number of blocks of [`BlockSize`] tokens in each layer.
///
/// The cache stores blocks and does not know which are valid: `playhouse-kvcache` decides which sequence owns
/// a block.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) block_size: BlockSize,
    pub(crate) layers: Vec<KvLayer>,
}

// === impl KvCache ===

impl KvCache {
    /// Returns a cache for the layers of `spec`, in the element type of the model. The operating system
    /// provides the memory as blocks are used.
    ///
    /// # Errors
    /// When the size overflows, or the kernels need another block size.
    pub fn new(
        spec: &DecoderSpec,
        blocks: usize,
        block_size: BlockSize,
        dtype: DType,
    ) -> Result<Self> {
        let layer = |layer: &LayerSpec| {
            let Attention::Gqa(gqa) = layer.attention else {
                candle_core::bail!("a cache for latent attention is not there yet");
            };
            KvLayer::zeros(blocks, block_size, gqa.kv_heads, gqa.head_dim, dtype)
        };
        let layers = spec.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { block_size, layers })
    }

    /// Returns the number of bytes that one block occupies, all layers together.
    #[must_use]
    pub fn bytes_per_block(spec: &DecoderSpec, block_size: BlockSize, dtype: DType) -> usize {
        let elements: usize = spec.layers.iter().map(|layer| layer.attention.kv_elements()).sum();
        block_size.tokens() * elements * dtype.size_in_bytes()
    }
}
