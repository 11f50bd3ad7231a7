//! Ops on two tensors of one shape: the residual sum and the gated activation.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::context::Context;
use crate::element::{
    Element, SharedSlice, elements, load_up_to, unwritten, with_element, write_up_to, written,
};
use crate::isa::Kernel;
use crate::norm::GRAIN;
use crate::simd::{LANES, Simd};
use crate::threads::Threads;

#[derive(Clone, Copy)]
enum Pairing {
    Add,
    SiluMul,
}

struct Elementwise<'a> {
    pairing: Pairing,
    threads: &'a Threads,
}

struct ElementRange<'a, E> {
    pairing: Pairing,
    a: &'a [E],
    b: &'a [E],
    range: Range<usize>,
    out: &'a SharedSlice<'a, MaybeUninit<E>>,
}

/// Computes `x + y`, rounded once. Both tensors have one shape and type.
///
/// # Errors
/// When shapes or types differ or a tensor is strided.
pub fn add(x: &Tensor, y: &Tensor, context: &Context) -> Result<Tensor> {
    let Context::Cpu(threads) = context;
    Elementwise { pairing: Pairing::Add, threads }.apply(x, y)
}

/// Computes `silu(gate) * up` with `silu(x) = x / (1 + e^-x)`. Both tensors have one shape and type.
///
/// Computed in `f32`; silu is rounded to the type of the tensors, then the product, as Hugging
/// Face does.
///
/// # Errors
/// When shapes or types differ or a tensor is strided.
pub fn silu_mul(gate: &Tensor, up: &Tensor, context: &Context) -> Result<Tensor> {
    let Context::Cpu(threads) = context;
    Elementwise { pairing: Pairing::SiluMul, threads }.apply(gate, up)
}

// === impl Elementwise ===

impl Elementwise<'_> {
    fn apply(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if a.dims() != b.dims() {
            bail!("{}: shapes {:?} and {:?} differ", self.name(), a.dims(), b.dims());
        }
        a.apply_op2_no_bwd(b, self)
    }

    fn forward<E: Element>(&self, a: &[E], b: &[E]) -> Vec<E> {
        let mut out = unwritten::<E>(a.len());
        let shared = SharedSlice::new(&mut out);
        self.threads.run_ranges(a.len(), GRAIN, |range| {
            let kernel = ElementRange { pairing: self.pairing, a, b, range, out: &shared };
            self.threads.isa().dispatch(kernel);
        });
        // SAFETY: the ranges are all of it, and each is written from end to end.
        unsafe { written(out) }
    }
}

impl CustomOp2 for Elementwise<'_> {
    fn name(&self) -> &'static str {
        match self.pairing {
            Pairing::Add => "add",
            Pairing::SiluMul => "silu_mul",
        }
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        with_element!(a.dtype(), self.name(), E => {
            let a = elements::<E>(a, a_layout, "the left operand")?;
            let b = elements::<E>(b, b_layout, "the right operand")?;
            let out = E::to_cpu_storage_owned(self.forward(a, b));
            Ok((out, a_layout.shape().clone()))
        })
    }
}

// === impl ElementRange ===

impl<E: Element> Kernel for ElementRange<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (a, b) = (&self.a[self.range.clone()], &self.b[self.range.clone()]);
        // SAFETY: each range is written by one task.
        let out = unsafe { self.out.part(self.range) };
        for ((a, b), out) in a.chunks(LANES).zip(b.chunks(LANES)).zip(out.chunks_mut(LANES)) {
            let (a, b) = (load_up_to(simd, a), load_up_to(simd, b));
            let value = match self.pairing {
                Pairing::Add => simd.add(a, b),
                Pairing::SiluMul => simd.mul(E::round(simd, silu(simd, a)), b),
            };
            write_up_to(simd, value, out);
        }
    }
}

#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::F) -> S::F {
    let e = simd.exp(simd.sub(simd.splat(0.0), x));
    simd.div(x, simd.add(simd.splat(1.0), e))
}
