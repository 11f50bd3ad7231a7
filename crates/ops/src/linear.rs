//! Matrix product with weights as they lie in the file: `[out, in]`, row-major, never repacked.
//!
//! - **LIN-1** an element of the result is one dot product: 16 lanes run along `in` from its
//!   start, are added in a fixed tree, and meet the bias. Nothing else enters into its bits: not
//!   the number of rows, the position of the row, the blocking, nor the thread count.
//! - **LIN-2** it is rounded once, from `f32`.
//!
//! Both operands are contiguous along `in`, so a tile of rows by columns keeps one vector of
//! partial sums per element in registers ([`tile`]) and no operand needs a transposition. Rows of
//! `x` are staged once (see [`Element`]); columns are cut into chunks, small enough that the
//! weights of a chunk stay in the second-level cache while all rows pass by.

mod tile;

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail,
};

use crate::Threads;
use crate::element::{Element, STEP, Shared, elements, with_element};
use crate::scratch::Line;
use tile::{Chunk, Stage};

/// Rows staged at once. Bounds the staged copy, and is a multiple of every tile height.
const ROWS: usize = 240;
/// Columns of a chunk at most.
const COLUMNS: usize = 64;
/// Bytes of weights in a chunk, if that leaves at least [`COLUMNS_MIN`] columns.
const CHUNK_BYTES: usize = 256 * 1024;
/// Columns of a chunk at least; a multiple of every tile width.
const COLUMNS_MIN: usize = 8;
/// Chunks per thread, so that a thread that is held up does not hold up the rest.
const CHUNKS_PER_THREAD: usize = 4;

/// What is rounded to at the end.
#[derive(Clone, Copy)]
enum Rounding {
    /// The type of the operands.
    Operands,
    /// Nothing: the sums as they are.
    F32,
}

struct Linear<'a> {
    rounding: Rounding,
    threads: &'a Threads,
}

/// `x * weight^T + bias`: `x` of `[rows, in]`, `weight` of `[out, in]`, `bias` of `[out]`, all of
/// one type; the result is `[rows, out]` of the same type.
///
/// # Errors
/// When shapes or types do not fit or a tensor is strided.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    threads: &Threads,
) -> Result<Tensor> {
    Linear { rounding: Rounding::Operands, threads }.apply(x, weight, bias)
}

/// As [`linear`], but the result is `f32` and not rounded to the type of the operands: for logits.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    threads: &Threads,
) -> Result<Tensor> {
    Linear { rounding: Rounding::F32, threads }.apply(x, weight, bias)
}

// === impl Linear ===

impl Linear<'_> {
    fn apply(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let ((_, inner), (outer, weight_inner)) = (x.dims2()?, weight.dims2()?);
        if inner != weight_inner {
            bail!("linear: x is {:?}, weight is {:?}; the second dimensions differ", x, weight);
        }
        let Some(bias) = bias else { return x.apply_op2_no_bwd(weight, self) };
        if bias.dims() != [outer] {
            bail!("linear: bias is {:?}, weight needs [{outer}]", bias.dims());
        }
        x.apply_op3_no_bwd(weight, bias, self)
    }

    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let (rows, inner) = x.1.shape().dims2()?;
        let (outer, _) = weight.1.shape().dims2()?;
        let storage = with_element!(x.0.dtype(), "linear", E => {
            let x = elements::<E>(x.0, x.1, "linear: x")?;
            let weight = elements::<E>(weight.0, weight.1, "linear: weight")?;
            let bias = match bias {
                Some((storage, layout)) => Some(elements::<E>(storage, layout, "linear: bias")?),
                None => None,
            };
            let product = Product { x, weight, bias, rows, inner, outer };
            match self.rounding {
                Rounding::Operands => E::to_cpu_storage_owned(product.compute::<E>(self.threads)),
                Rounding::F32 => f32::to_cpu_storage_owned(product.compute::<f32>(self.threads)),
            }
        });
        Ok((storage, Shape::from((rows, outer))))
    }
}

impl CustomOp2 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), None)
    }
}

impl CustomOp3 for Linear<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, x_layout), (weight, weight_layout), Some((bias, bias_layout)))
    }
}

/// The operands of one product.
#[derive(Clone, Copy)]
struct Product<'a, E> {
    /// `[rows, inner]`
    x: &'a [E],
    /// `[outer, inner]`
    weight: &'a [E],
    /// `[outer]`
    bias: Option<&'a [E]>,
    rows: usize,
    inner: usize,
    outer: usize,
}

// === impl Product ===

impl<E: Element> Product<'_, E> {
    fn compute<O: Element>(self, threads: &Threads) -> Vec<O> {
        let mut out = O::zeros(self.rows * self.outer);
        let shared = Shared::new(&mut out);
        let steps = self.inner.div_ceil(STEP);
        let mut staged = threads.scratch().lines(2 * steps * self.rows.min(ROWS));
        for first in (0..self.rows).step_by(ROWS) {
            let rows = first..self.rows.min(first + ROWS);
            let height = threads.isa().shapes()[0].0;
            let lines = Shared::<Line>::new(&mut staged);
            threads.run_ranges(rows.len(), height, |part| {
                let rows = first + part.start..first + part.end;
                threads.isa().dispatch(Stage { product: self, first, rows, staged: &lines });
            });
            threads.run_ranges(self.outer, self.chunk_columns(threads), |columns| {
                let (staged, out, scratch) = (&*staged, &shared, threads.scratch());
                let rows = rows.clone();
                let chunk = Chunk { product: self, rows, columns, staged, out, scratch };
                threads.isa().dispatch(chunk);
            });
        }
        out
    }

    /// Columns per task.
    fn chunk_columns(&self, threads: &Threads) -> usize {
        let cached = CHUNK_BYTES / (self.inner * size_of::<E>()).max(1);
        let balanced = self.outer.div_ceil(CHUNKS_PER_THREAD * threads.count());
        let columns = cached.min(balanced).min(COLUMNS);
        columns.next_multiple_of(COLUMNS_MIN).min(COLUMNS)
    }
}

#[cfg(test)]
mod tests;
