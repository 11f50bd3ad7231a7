//! Matrix product with weights as they are stored in the file: `[out, in]`, row-major, never repacked.
//!
//! - **LIN-1** an element of the result is one dot product: 16 lanes run along `in` from its start, are added
//!   in a fixed tree, and then the bias is added. Nothing else affects its bits: not the number of rows, the
//!   position of the row, the blocking, nor the thread count.
//! - **LIN-2** an element of the result is rounded once, from `f32`.
//!
//! Two loop nests compute the same bits. For few rows, only reading the weights once from memory matters:
//! lanes run along `in`, where both operands are contiguous ([`dot`]). For many rows the multiply-adds
//! matter, and widening the weights again for each row would cost as much: lanes are 16 columns, and each of
//! the 16 partial sums of an element is a chain of its own ([`outer`]); the weights are widened and
//! transposed for that, chunk by chunk, in cache. Where the CPU multiplies `bf16` as stored, nothing is
//! widened, and [`dot`] is faster for any number of rows.

mod dot;
mod outer;

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};

use crate::context::Context;
use crate::element::{
    Element, STEP, SharedSlice, elements, load_up_to, unwritten, with_element, write_up_to, written,
};
use crate::simd::{Shapes, Simd};
use crate::threads::Threads;

/// From this many rows on, transposing the weights pays off, if they are widened anyway (measured
/// with AVX-512).
const MANY_ROWS: usize = 48;

/// The type to which results are rounded at the end.
#[derive(Clone, Copy)]
enum Rounding {
    /// The type of the operands.
    Operands,
    /// No rounding: the sums as computed.
    F32,
}

struct Linear<'a> {
    rounding: Rounding,
    threads: &'a Threads,
}

/// Computes `x * weight^T + bias`: `x` of `[rows, in]`, `weight` of `[out, in]`, `bias` of `[out]`, all of
/// one type; the result is `[rows, out]` of the same type.
///
/// # Errors
/// When shapes or types do not fit or a tensor is strided.
pub fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    context: &Context,
) -> Result<Tensor> {
    let Context::Cpu(threads) = context;
    Linear { rounding: Rounding::Operands, threads }.apply(x, weight, bias)
}

/// Computes the product of [`linear`] in `f32`, not rounded to the type of the operands: for logits.
///
/// # Errors
/// As [`linear`].
pub fn linear_f32(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    context: &Context,
) -> Result<Tensor> {
    let Context::Cpu(threads) = context;
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
                Rounding::Operands => {
                    let mut out = unwritten::<E>(rows * outer);
                    product.compute(&Output::Operands(SharedSlice::new(&mut out)), self.threads);
                    // SAFETY: the chunks are all columns, and each finishes all its rows.
                    E::to_cpu_storage_owned(unsafe { written(out) })
                }
                Rounding::F32 => {
                    let mut out = unwritten::<f32>(rows * outer);
                    product.compute(&Output::F32(SharedSlice::new(&mut out)), self.threads);
                    // SAFETY: as above.
                    f32::to_cpu_storage_owned(unsafe { written(out) })
                }
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

/// `[rows, outer]`, rounded or not. One type for both, so that kernels exist once.
enum Output<'a, E> {
    Operands(SharedSlice<'a, MaybeUninit<E>>),
    F32(SharedSlice<'a, MaybeUninit<f32>>),
}

/// Cuts rows into the heights of [`Shapes`], tallest first: `(first row, height)`.
struct Panels {
    next: usize,
    end: usize,
    shapes: Shapes,
}

// === impl Product ===

impl<E: Element> Product<'_, E> {
    fn compute(self, out: &Output<'_, E>, threads: &Threads) {
        let as_stored = E::DTYPE == DType::BF16 && threads.isa().multiplies_bf16();
        if as_stored || self.rows < MANY_ROWS {
            dot::compute(self, out, threads);
        } else {
            outer::compute(self, out, threads);
        }
    }

    /// Returns the vectors of one staged row.
    fn lines<S: Simd>(&self) -> usize {
        self.inner.div_ceil(STEP) * E::lines::<S>()
    }

    /// Finishes up to 16 elements of a row: adds the bias, rounds and writes.
    ///
    /// # Safety
    /// No other task writes these elements.
    #[inline(always)]
    unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        sums: S::F,
        row: usize,
        columns: Range<usize>,
        out: &Output<'_, E>,
    ) {
        let mut value = sums;
        if let Some(bias) = self.bias {
            value = simd.add(value, load_up_to(simd, &bias[columns.clone()]));
        }
        let start = row * self.outer;
        let range = start + columns.start..start + columns.end;
        match out {
            Output::Operands(out) => {
                // SAFETY: the caller's.
                write_up_to(simd, value, unsafe { out.part(range) });
            }
            Output::F32(out) => {
                // SAFETY: the caller's.
                write_up_to(simd, value, unsafe { out.part(range) });
            }
        }
    }
}

// === impl Panels ===

impl Panels {
    fn new(rows: Range<usize>, shapes: Shapes) -> Self {
        Self { next: rows.start, end: rows.end, shapes }
    }
}

impl Iterator for Panels {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let left = self.end - self.next;
        let height = self.shapes.iter().map(|shape| shape.0).find(|&height| height <= left)?;
        let row = self.next;
        self.next += height;
        Some((row, height))
    }
}

/// Evaluates `$call` with the constants `$M` and `$N` of the shape of `$height` rows in `$shapes`.
/// All shapes of any instruction set are listed; those of others compile to nothing.
macro_rules! with_shape {
    ($shapes:expr, $height:expr, $M:ident, $N:ident => $call:expr, $(($m:literal, $n:literal))*) => {
        match $height {
            $(height if const { crate::linear::offers($shapes, $m, $n) } && height == $m => {
                const $M: usize = $m;
                const $N: usize = $n;
                $call
            })*
            height => unreachable!("a shape of {height} rows is listed"),
        }
    };
}
use with_shape;

const fn offers(shapes: Shapes, rows: usize, vectors: usize) -> bool {
    let mut i = 0;
    while i < shapes.len() {
        if shapes[i].0 == rows && shapes[i].1 == vectors {
            return true;
        }
        i += 1;
    }
    false
}

#[cfg(test)]
mod tests;
