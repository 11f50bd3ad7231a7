//! The paged key/value cache of one layer.

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use playhouse_types::BlockSize;

use crate::element::{Element as _, with_element};
use crate::ragged::Ragged;
use crate::simd::LANES;

/// Tokens of a block: the keys of a block are one vector.
pub(crate) const BLOCK_TOKENS: usize = LANES;

/// Keys and values of one layer, in blocks of [`BlockSize::CPU`].
///
/// Keys are `[blocks, kv_heads, head_dim, 16]`, so that a query finds the 16 tokens of a block side by side;
/// values are `[blocks, kv_heads, 16, head_dim]`.
#[derive(Clone, Debug)]
pub struct KvLayer {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
    pub(crate) shape: KvShape,
}

/// The dimensions of a [`KvLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) blocks: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

// === impl KvLayer ===

impl KvLayer {
    /// Returns a cache for `blocks` blocks. The operating system provides the memory as blocks are used.
    ///
    /// # Errors
    /// When blocks have not 16 tokens, `dtype` is not bf16, f16 or f32, a head has no elements, or the size overflows.
    pub fn zeros(
        blocks: usize,
        block_size: BlockSize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> Result<Self> {
        if block_size.tokens() != BLOCK_TOKENS {
            bail!(
                "kv cache: blocks of {} tokens; they need to have {BLOCK_TOKENS}",
                block_size.tokens()
            );
        }
        if kv_heads == 0 || head_dim == 0 {
            bail!("kv cache: {kv_heads} heads of {head_dim}; both need to be at least 1");
        }
        let shape = KvShape { blocks, kv_heads, head_dim };
        let keys = zeros((blocks, kv_heads, head_dim, BLOCK_TOKENS), dtype)?;
        let values = zeros((blocks, kv_heads, BLOCK_TOKENS, head_dim), dtype)?;
        Ok(Self { keys, values, shape })
    }

    /// Returns the width of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// Returns the keys: `[blocks, kv_heads, head_dim, 16]`.
    #[must_use]
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// Returns the values: `[blocks, kv_heads, 16, head_dim]`.
    #[must_use]
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Checks that every block that a step uses exists.
    pub(crate) fn check(&self, op: &str, ragged: &Ragged<'_>) -> Result<()> {
        if ragged.block_size().tokens() != BLOCK_TOKENS {
            let tokens = ragged.block_size().tokens();
            bail!("{op}: block tables of {tokens} tokens a block, the cache has {BLOCK_TOKENS}");
        }
        if ragged.blocks() > self.shape.blocks {
            let highest = ragged.blocks() - 1;
            bail!("{op}: block {highest} is in use, the cache has {}", self.shape.blocks);
        }
        Ok(())
    }
}

// === impl KvShape ===

impl KvShape {
    /// Returns the number of elements of one head in one block, of keys or of values.
    pub(crate) fn head_elements(self) -> usize {
        BLOCK_TOKENS * self.head_dim
    }

    /// Returns the index where a head of a block begins, in keys and in values.
    pub(crate) fn head_start(self, block: u32, kv_head: usize) -> usize {
        (block as usize * self.kv_heads + kv_head) * self.head_elements()
    }
}

fn zeros(dims: (usize, usize, usize, usize), dtype: DType) -> Result<Tensor> {
    let (a, b, c, d) = dims;
    let len = a.checked_mul(b).and_then(|n| n.checked_mul(c)).and_then(|n| n.checked_mul(d));
    let Some(len) = len else { bail!("kv cache: {dims:?} elements overflow") };
    let storage: CpuStorage = with_element!(dtype, "kv cache", E => {
        <E as candle_core::WithDType>::to_cpu_storage_owned(E::zeros(len))
    });
    let none = candle_core::op::BackpropOp::none();
    Ok(Tensor::from_storage(Storage::Cpu(storage), dims, none, false))
}
