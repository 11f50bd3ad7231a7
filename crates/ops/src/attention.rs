//! Causal attention over the paged cache, for a ragged batch of prefill chunks and decodes.
//!
//! - **ATT-1** a query (a row and a head) walks its keys in spans of 64 positions, aligned to absolute
//!   positions, first to last, with an online softmax in `f32` (Milakov and Gimelshein, arXiv 1805.02867).
//!   The arithmetic of a query depends on its position and window alone, not on the other queries that share
//!   its task and so a loaded span.
//! - **ATT-2** keys and values outside of a query's window are left out, not multiplied by zero, so no value
//!   there can reach the query's result.

mod span;

use std::cmp::Reverse;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::context::Context;
use crate::element::{Element, SharedSlice, elements, with_element};
use crate::kv::{KvLayer, KvShape};
use crate::ragged::Ragged;
use crate::threads::Threads;
use span::Tile;

/// Approximate number of queries of a task: all of them use each loaded span, and their state stays in the
/// first-level cache.
const TILE_QUERIES: usize = 32;

struct Attention<'a> {
    shape: KvShape,
    ragged: &'a Ragged<'a>,
    scale: f32,
    window: usize,
    threads: &'a Threads,
}

/// The input of every task of one op.
struct Operands<'a, E> {
    /// `[rows, heads, head_dim]`
    q: &'a [E],
    keys: &'a [E],
    values: &'a [E],
    heads: usize,
    shape: KvShape,
    scale: f32,
    window: usize,
}

/// Consecutive rows of one sequence.
struct Rows {
    sequence: usize,
    /// Index of the first row, counted from the first row of the sequence.
    first: usize,
    count: usize,
}

/// Computes `softmax(q k^T * scale) v` for each row and head of `q` (`[rows, heads * head_dim]`), over the
/// cached tokens of the row's sequence up to the row's own position; with a window, over the last `window` of
/// these tokens, the row's own included. `heads` is a multiple of the cache's heads; consecutive query heads
/// share one KV head. The rows' own keys and values must be in the cache already. Computed in `f32`, rounded
/// once.
///
/// # Errors
/// When shapes or types do not fit, the window is 0, a block is outside of the cache, or `q` is
/// strided.
pub fn paged_attention(
    q: &Tensor,
    cache: &KvLayer,
    ragged: &Ragged<'_>,
    scale: f32,
    window: Option<usize>,
    context: &Context,
) -> Result<Tensor> {
    const OP: &str = "paged_attention";
    let KvShape { kv_heads, head_dim, .. } = cache.shape;
    let (rows, width) = q.dims2()?;
    if rows != ragged.rows() || !width.is_multiple_of(kv_heads * head_dim) {
        let needed = ragged.rows();
        let q = q.dims();
        bail!("{OP}: q is {q:?}, needs {needed} rows and a multiple of {kv_heads} x {head_dim}");
    }
    let window = window.unwrap_or(usize::MAX);
    if window == 0 {
        bail!("{OP}: window 0; a token sees at least itself");
    }
    cache.check(OP, ragged)?;
    let shape = cache.shape;
    let Context::Cpu(threads) = context;
    let op = Attention { shape, ragged, scale, window, threads };
    q.apply_op3_no_bwd(&cache.keys, &cache.values, &op)
}

// === impl Attention ===

impl CustomOp3 for Attention<'_> {
    fn name(&self) -> &'static str {
        "paged_attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let Self { shape, scale, window, .. } = *self;
        let heads = q_layout.dims()[1] / shape.head_dim;
        let storage = with_element!(q.dtype(), self.name(), E => {
            let q = elements::<E>(q, q_layout, "paged_attention: q")?;
            let keys = elements::<E>(keys, keys_layout, "paged_attention: the cache")?;
            let values = elements::<E>(values, values_layout, "paged_attention: the cache")?;
            let operands = Operands { q, keys, values, heads, shape, scale, window };
            E::to_cpu_storage_owned(self.forward(&operands))
        });
        Ok((storage, q_layout.shape().clone()))
    }
}

impl Attention<'_> {
    fn forward<E: Element>(&self, operands: &Operands<'_, E>) -> Vec<E> {
        let mut out = E::zeros(operands.q.len());
        let kv_heads = operands.shape.kv_heads;
        if operands.q.is_empty() {
            return out;
        }
        let shared = SharedSlice::new(&mut out);
        let group = operands.heads / kv_heads;
        let tiles = self.row_tiles(TILE_QUERIES.div_ceil(group));
        // With few rows, threads share the query heads of a KV head.
        let splits = self.threads.count().div_ceil(tiles.len() * kv_heads).min(group);
        let heads = group.div_ceil(splits);
        let splits = group.div_ceil(heads);
        self.threads.run(tiles.len() * kv_heads * splits, |task| {
            let (rows, part) = (&tiles[task / (kv_heads * splits)], task % (kv_heads * splits));
            let (kv_head, first) = (part / splits, part % splits * heads);
            let tile = Tile {
                operands,
                sequence: &self.ragged.sequences()[rows.sequence],
                rows: rows.first..rows.first + rows.count,
                kv_head,
                heads: kv_head * group + first..kv_head * group + group.min(first + heads),
                out: &shared,
                scratch: self.threads.scratch(),
            };
            self.threads.isa().dispatch(tile);
        });
        out
    }

    /// Cuts rows into tiles of at most `height`, those with the most keys first.
    fn row_tiles(&self, height: usize) -> Vec<Rows> {
        let mut tiles = Vec::new();
        for (index, sequence) in self.ragged.sequences().iter().enumerate() {
            for first in (0..sequence.rows).step_by(height) {
                let count = height.min(sequence.rows - first);
                tiles.push(Rows { sequence: index, first, count });
            }
        }
        tiles.sort_by_key(|rows| {
            let sequence = &self.ragged.sequences()[rows.sequence];
            Reverse(self.window.min(sequence.start + rows.first + rows.count))
        });
        tiles
    }
}
