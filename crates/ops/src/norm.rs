//! RMS normalisation, over the last dimension.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::context::Context;
use crate::element::{Element, SharedSlice, elements, load_up_to, store_up_to, with_element};
use crate::isa::Kernel;
use crate::simd::{LANES, Simd};
use crate::threads::Threads;

/// Fewest elements that a task should have: for fewer, a fork costs more than it gains.
pub(crate) const GRAIN: usize = 16 * 1024;

struct RmsNorm<'a> {
    eps: f32,
    threads: &'a Threads,
}

struct NormRows<'a, E> {
    x: &'a [E],
    weight: &'a [E],
    eps: f32,
    rows: Range<usize>,
    out: &'a SharedSlice<'a, E>,
}

/// Computes `x / sqrt(mean(x^2) + eps) * weight` over the last dimension of `x` (`[..., width]`), with
/// `weight` of `[width]`. The result has the shape of `x`.
///
/// Computed in `f32`; the normalised value is rounded to the type of `x` before it is multiplied
/// by the weight, and the product is rounded again, as `LlamaRMSNorm` of Hugging Face does.
///
/// # Errors
/// When `weight` is not `[width]`, types differ or a tensor is strided.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32, context: &Context) -> Result<Tensor> {
    let Context::Cpu(threads) = context;
    let width = x.dim(D::Minus1)?;
    if weight.dims() != [width] {
        bail!("rms_norm: weight is {:?}, x needs [{width}]", weight.dims());
    }
    x.apply_op2_no_bwd(weight, &RmsNorm { eps, threads })
}

// === impl RmsNorm ===

impl CustomOp2 for RmsNorm<'_> {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        with_element!(x.dtype(), self.name(), E => {
            let x = elements::<E>(x, x_layout, "rms_norm: x")?;
            let weight = elements::<E>(weight, weight_layout, "rms_norm: weight")?;
            let out = E::to_cpu_storage_owned(self.forward(x, weight));
            Ok((out, x_layout.shape().clone()))
        })
    }
}

impl RmsNorm<'_> {
    fn forward<E: Element>(&self, x: &[E], weight: &[E]) -> Vec<E> {
        let width = weight.len();
        let mut out = E::zeros(x.len());
        if width == 0 {
            return out;
        }
        let shared = SharedSlice::new(&mut out);
        self.threads.run_ranges(x.len() / width, GRAIN.div_ceil(width), |rows| {
            let kernel = NormRows { x, weight, eps: self.eps, rows, out: &shared };
            self.threads.isa().dispatch(kernel);
        });
        out
    }
}

// === impl NormRows ===

impl<E: Element> Kernel for NormRows<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for row in self.rows.clone() {
            let span = row * width..(row + 1) * width;
            // SAFETY: each row is written by one task.
            let out = unsafe { self.out.part(span.clone()) };
            normalize(simd, &self.x[span], self.weight, self.eps, out);
        }
    }
}

#[inline(always)]
fn normalize<S: Simd, E: Element>(simd: S, x: &[E], weight: &[E], eps: f32, out: &mut [E]) {
    let mut squares = simd.splat(0.0);
    for part in x.chunks(LANES) {
        let part = load_up_to(simd, part);
        squares = simd.fma(part, part, squares);
    }
    let mean = simd.sum(squares) / x.len() as f32;
    let scale = simd.splat(1.0 / (mean + eps).sqrt());
    for ((x, weight), out) in x.chunks(LANES).zip(weight.chunks(LANES)).zip(out.chunks_mut(LANES)) {
        let normal = E::round(simd, simd.mul(load_up_to(simd, x), scale));
        store_up_to(simd, simd.mul(load_up_to(simd, weight), normal), out);
    }
}
