//! Rotary position embedding, and the write of keys and values into the paged cache.

use std::ops::Range;

use candle_core::{
    CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Tensor, WithDType, bail,
};

use crate::context::Context;
use crate::element::{
    Element, SharedSlice, elements, elements_mut, load_up_to, store_up_to, with_element,
};
use crate::isa::Kernel;
use crate::kv::{BLOCK_TOKENS, KvLayer, KvShape};
use crate::norm::GRAIN;
use crate::ragged::{Ragged, Write};
use crate::simd::{LANES, Simd};
use crate::threads::Threads;

/// Cosines and sines of each row's position, from whatever formula. A factor on them (as in YaRN) is already
/// multiplied in.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeRows {
    /// `[rows, head_dim / 2]`, row-major.
    pub cos: Vec<f32>,
    /// `[rows, head_dim / 2]`, row-major.
    pub sin: Vec<f32>,
}

/// Rotates `q` and `k` and writes `k` and `v` into the cache; returns the rotated `q`.
///
/// `q` is `[rows, heads * head_dim]`, `k` and `v` are `[rows, kv_heads * head_dim]`. Element `i`
/// of a head pairs with element `i + head_dim / 2`. Cosines and sines are rounded to the type of
/// the tensors, then each product and each sum, as `apply_rotary_pos_emb` of Hugging Face does.
///
/// # Errors
/// When shapes or types do not fit, a block is outside of the cache, or a tensor is strided. The cache is
/// then unchanged.
pub fn rope_and_store(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    rope: &RopeRows,
    cache: &KvLayer,
    ragged: &Ragged<'_>,
    context: &Context,
) -> Result<Tensor> {
    const OP: &str = "rope_and_store";
    let KvShape { kv_heads, head_dim, .. } = cache.shape;
    let (rows, width) = q.dims2()?;
    let kv = [rows, kv_heads * head_dim];
    if rows != ragged.rows() || !width.is_multiple_of(head_dim) {
        let expected = ragged.rows();
        bail!("{OP}: q is {:?}, needs {expected} rows of heads of {head_dim}", q.dims());
    }
    if k.dims() != kv || v.dims() != kv {
        bail!("{OP}: k is {:?} and v is {:?}, both need {kv:?}", k.dims(), v.dims());
    }
    for (name, tensor) in [("q", q), ("k", k), ("v", v)] {
        if tensor.dtype() != cache.keys.dtype() || !tensor.is_contiguous() {
            let (given, cached) = (tensor.dtype(), cache.keys.dtype());
            bail!("{OP}: {name} is {given:?}, needs to be a contiguous {cached:?}");
        }
    }
    let half = head_dim / 2;
    if head_dim % 2 != 0 || rope.cos.len() != rows * half || rope.sin.len() != rows * half {
        let (cos, sin) = (rope.cos.len(), rope.sin.len());
        bail!("{OP}: {cos} cosines and {sin} sines, {rows} rows of heads of {head_dim}");
    }
    cache.check(OP, ragged)?;
    let Context::Cpu(threads) = context;
    let rotated = q.apply_op1_no_bwd(&Rotate { rope, head_dim, threads })?;
    let store = |part| Store { part, rope, shape: cache.shape, ragged, threads };
    cache.keys.inplace_op2(k, &store(Part::Keys))?;
    cache.values.inplace_op2(v, &store(Part::Values))?;
    Ok(rotated)
}

struct Rotate<'a> {
    rope: &'a RopeRows,
    head_dim: usize,
    threads: &'a Threads,
}

struct RotateRows<'a, E> {
    x: &'a [E],
    rope: &'a RopeRows,
    head_dim: usize,
    width: usize,
    rows: Range<usize>,
    out: &'a SharedSlice<'a, E>,
}

#[derive(Clone, Copy)]
enum Part {
    Keys,
    Values,
}

struct Store<'a> {
    part: Part,
    rope: &'a RopeRows,
    shape: KvShape,
    ragged: &'a Ragged<'a>,
    threads: &'a Threads,
}

struct StoreKeys<'a, E> {
    keys: &'a [E],
    rope: &'a RopeRows,
    shape: KvShape,
    writes: &'a [Write],
    cache: &'a SharedSlice<'a, E>,
}

// === impl Rotate ===

impl CustomOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, q: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let width = layout.dims()[1];
        with_element!(q.dtype(), self.name(), E => {
            let q = elements::<E>(q, layout, "rope: q")?;
            let out = E::to_cpu_storage_owned(self.forward(q, width));
            Ok((out, layout.shape().clone()))
        })
    }
}

impl Rotate<'_> {
    fn forward<E: Element>(&self, x: &[E], width: usize) -> Vec<E> {
        let mut out = E::zeros(x.len());
        if width == 0 {
            return out;
        }
        let shared = SharedSlice::new(&mut out);
        let Self { rope, head_dim, threads } = *self;
        threads.run_ranges(x.len() / width, GRAIN.div_ceil(width), |rows| {
            threads.isa().dispatch(RotateRows { x, rope, head_dim, width, rows, out: &shared });
        });
        out
    }
}

// === impl RotateRows ===

impl<E: Element> Kernel for RotateRows<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.rows.clone() {
            for head in (row * self.width..(row + 1) * self.width).step_by(self.head_dim) {
                let span = head..head + self.head_dim;
                // SAFETY: each row is written by one task.
                let out = unsafe { self.out.part(span.clone()) };
                rotate(simd, &self.x[span], self.rope, row, out);
            }
        }
    }
}

// === impl Store ===

impl InplaceOp2 for Store<'_> {
    fn name(&self) -> &'static str {
        match self.part {
            Part::Keys => "store_keys",
            Part::Values => "store_values",
        }
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
    ) -> Result<()> {
        use candle_core::backend::BackendStorage as _;
        with_element!(rows.dtype(), self.name(), E => {
            let rows = elements::<E>(rows, rows_layout, "rope_and_store: k or v")?;
            let cache = elements_mut::<E>(cache, cache_layout, "rope_and_store: the cache")?;
            match self.part {
                Part::Keys => self.keys(rows, cache),
                Part::Values => self.values(rows, cache),
            }
        });
        Ok(())
    }
}

impl Store<'_> {
    fn keys<E: Element>(&self, keys: &[E], cache: &mut [E]) {
        let cache = SharedSlice::new(cache);
        let Self { rope, shape, ragged, threads, .. } = *self;
        let grain = GRAIN.div_ceil(shape.kv_heads * shape.head_elements());
        threads.run_ranges(ragged.writes().len(), grain, |range| {
            let writes = &ragged.writes()[range];
            threads.isa().dispatch(StoreKeys { keys, rope, shape, writes, cache: &cache });
        });
    }

    fn values<E: Element>(&self, values: &[E], cache: &mut [E]) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        for write in self.ragged.writes() {
            for head in 0..kv_heads {
                let to = self.shape.head_start(write.block, head) + write.slot * head_dim;
                for i in 0..write.rows {
                    let from = ((write.row + i) * kv_heads + head) * head_dim;
                    cache[to + i * head_dim..][..head_dim]
                        .copy_from_slice(&values[from..from + head_dim]);
                }
            }
        }
    }
}

// === impl StoreKeys ===

impl<E: Element> Kernel for StoreKeys<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        let mut rotated = vec![E::ZERO; head_dim];
        for write in self.writes {
            for head in 0..kv_heads {
                let start = self.shape.head_start(write.block, head);
                // SAFETY: a block is in one write, and a write in one task.
                let block = unsafe { self.cache.part(start..start + self.shape.head_elements()) };
                for i in 0..write.rows {
                    let row = write.row + i;
                    let from = (row * kv_heads + head) * head_dim;
                    let key = &self.keys[from..from + head_dim];
                    rotate(simd, key, self.rope, row, &mut rotated);
                    for (tokens, &element) in block.chunks_mut(BLOCK_TOKENS).zip(&rotated) {
                        tokens[write.slot + i] = element;
                    }
                }
            }
        }
    }
}

/// Rotates one head of row `row`.
#[inline(always)]
fn rotate<S: Simd, E: Element>(simd: S, x: &[E], rope: &RopeRows, row: usize, out: &mut [E]) {
    let half = x.len() / 2;
    let angles = row * half..(row + 1) * half;
    let (cos, sin) = (&rope.cos[angles.clone()], &rope.sin[angles]);
    let (low, high) = x.split_at(half);
    let (out_low, out_high) = out.split_at_mut(half);
    for from in (0..half).step_by(LANES) {
        let part = from..half.min(from + LANES);
        let cos = E::round(simd, load_up_to(simd, &cos[part.clone()]));
        let sin = E::round(simd, load_up_to(simd, &sin[part.clone()]));
        let low = load_up_to(simd, &low[part.clone()]);
        let high = load_up_to(simd, &high[part.clone()]);
        let low_cos = E::round(simd, simd.mul(low, cos));
        let high_sin = E::round(simd, simd.mul(high, sin));
        let high_cos = E::round(simd, simd.mul(high, cos));
        let low_sin = E::round(simd, simd.mul(low, sin));
        store_up_to(simd, simd.sub(low_cos, high_sin), &mut out_low[part.clone()]);
        store_up_to(simd, simd.add(high_cos, low_sin), &mut out_high[part]);
    }
}
