//! The element types of tensors, and access to the memory behind a tensor.

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Range;

use candle_core::{CpuStorage, Layout, Result, WithDType, bail};
use half::vec::HalfBitsVecExt as _;
use half::{bf16, f16};

use crate::scratch::Line;
use crate::simd::{LANES, Simd};

/// Elements that one step of a dot product takes from each side.
pub(crate) const STEP: usize = 2 * LANES;

/// An element type of tensors: `bf16`, `f16` or `f32`.
///
/// A dot product goes by steps of [`STEP`] elements. The left side is *staged*: widened to `f32` once, in the
/// order into which the right side falls when it is loaded.
pub(crate) trait Element: WithDType {
    const ZERO: Self;

    /// Returns the lines that a staged step occupies.
    #[inline(always)]
    fn lines<S: Simd>() -> usize {
        2
    }

    /// Returns the elements of a storage of this type.
    fn storage_as_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    /// Returns `len` zeros, on pages that the operating system need not touch yet.
    fn zeros(len: usize) -> Vec<Self>;

    /// # Safety
    /// `from` is valid for 16 elements.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F;

    /// # Safety
    /// `to` is valid for 16 elements.
    unsafe fn store<S: Simd>(simd: S, value: S::F, to: *mut Self);

    /// Rounds to the nearest value of this type.
    fn round<S: Simd>(simd: S, value: S::F) -> S::F;

    /// Loads the right side of a step.
    ///
    /// # Safety
    /// `from` is valid for [`STEP`] elements.
    #[inline(always)]
    unsafe fn load_step<S: Simd>(simd: S, from: *const Self) -> [S::F; 2] {
        // SAFETY: the caller's.
        unsafe { [Self::load(simd, from), Self::load(simd, from.add(LANES))] }
    }

    /// Adds the products of one line of a step with one of another to `sum`, lane by lane.
    #[inline(always)]
    fn dot_line<S: Simd>(simd: S, sum: S::F, left: S::F, right: S::F) -> S::F {
        simd.fma(left, right, sum)
    }

    /// Adds the products of a step to `sum`, lane by lane, always in the same order.
    ///
    /// # Safety
    /// `left` is valid for [`lines`](Self::lines) lines.
    #[inline(always)]
    unsafe fn dot_step<S: Simd>(simd: S, sum: S::F, left: *const Line, right: [S::F; 2]) -> S::F {
        // SAFETY: the caller's; a line is 16 `f32`.
        let left = unsafe { [simd.load_f32(left.cast()), simd.load_f32(left.add(1).cast())] };
        let sum = simd.fma(left[0], right[0], sum);
        simd.fma(left[1], right[1], sum)
    }
}

/// Loads up to 16 elements, and zeros where `from` is shorter.
#[inline(always)]
pub(crate) fn load_up_to<S: Simd, E: Element>(simd: S, from: &[E]) -> S::F {
    if from.len() >= LANES {
        // SAFETY: the length was checked.
        return unsafe { E::load(simd, from.as_ptr()) };
    }
    let mut padded = [E::ZERO; LANES];
    padded[..from.len()].copy_from_slice(from);
    // SAFETY: the array has 16 elements.
    unsafe { E::load(simd, padded.as_ptr()) }
}

/// Stores the first `to.len()` lanes, at most 16.
#[inline(always)]
pub(crate) fn store_up_to<S: Simd, E: Element>(simd: S, value: S::F, to: &mut [E]) {
    // SAFETY: one layout, and only elements are written.
    let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len()) };
    write_up_to::<S, E>(simd, value, to);
}

/// Stores lanes as [`store_up_to`] does, into elements of an output that are written for the first time.
#[inline(always)]
pub(crate) fn write_up_to<S: Simd, E: Element>(simd: S, value: S::F, to: &mut [MaybeUninit<E>]) {
    if to.len() >= LANES {
        // SAFETY: the length was checked.
        return unsafe { E::store(simd, value, to.as_mut_ptr().cast()) };
    }
    let mut padded = [E::ZERO; LANES];
    // SAFETY: the array has 16 elements.
    unsafe { E::store(simd, value, padded.as_mut_ptr()) };
    for (to, value) in to.iter_mut().zip(padded) {
        to.write(value);
    }
}

/// Returns the memory of an output before it is computed. Zeroing the memory would take a few hundredths of a
/// prefill, on one thread.
pub(crate) fn unwritten<E: Element>(len: usize) -> Vec<MaybeUninit<E>> {
    let mut out = Vec::with_capacity(len);
    // SAFETY: the capacity is there, and a `MaybeUninit` needs no value.
    unsafe { out.set_len(len) };
    out
}

/// Returns the output, computed.
///
/// # Safety
/// Every element has been written.
pub(crate) unsafe fn written<E: Element>(out: Vec<MaybeUninit<E>>) -> Vec<E> {
    let mut out = ManuallyDrop::new(out);
    // SAFETY: the parts of a vector that is not dropped; one layout; all elements have values.
    unsafe { Vec::from_raw_parts(out.as_mut_ptr().cast(), out.len(), out.capacity()) }
}

/// Loads up to [`STEP`] elements as the right side of a step, zeros where `from` is shorter.
#[inline(always)]
pub(crate) fn load_step_up_to<S: Simd, E: Element>(simd: S, from: &[E]) -> [S::F; 2] {
    if from.len() >= STEP {
        // SAFETY: the length was checked.
        return unsafe { E::load_step(simd, from.as_ptr()) };
    }
    let mut padded = [E::ZERO; STEP];
    padded[..from.len()].copy_from_slice(from);
    // SAFETY: the array has 32 elements.
    unsafe { E::load_step(simd, padded.as_ptr()) }
}

impl Element for bf16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn lines<S: Simd>() -> usize {
        if S::BF16_PAIRS { 1 } else { 2 }
    }

    fn storage_as_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::BF16(elements) => Some(elements),
            _ => None,
        }
    }

    fn zeros(len: usize) -> Vec<Self> {
        vec![0u16; len].reinterpret_into()
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { simd.load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, value: S::F, to: *mut Self) {
        // SAFETY: the caller's.
        unsafe { simd.store_bf16(value, to) }
    }

    #[inline(always)]
    fn round<S: Simd>(simd: S, value: S::F) -> S::F {
        simd.round_bf16(value)
    }

    #[inline(always)]
    unsafe fn load_step<S: Simd>(simd: S, from: *const Self) -> [S::F; 2] {
        // SAFETY: the caller's.
        unsafe { simd.load_bf16_pairs(from) }
    }

    #[inline(always)]
    unsafe fn dot_step<S: Simd>(simd: S, sum: S::F, left: *const Line, right: [S::F; 2]) -> S::F {
        // SAFETY: the caller's; a line is 16 `f32`.
        unsafe {
            let sum = Self::dot_line(simd, sum, simd.load_f32(left.cast()), right[0]);
            if S::BF16_PAIRS {
                return sum;
            }
            Self::dot_line(simd, sum, simd.load_f32(left.add(1).cast()), right[1])
        }
    }

    #[inline(always)]
    fn dot_line<S: Simd>(simd: S, sum: S::F, left: S::F, right: S::F) -> S::F {
        if S::BF16_PAIRS { simd.bf16_dot(sum, left, right) } else { simd.fma(left, right, sum) }
    }
}

impl Element for f16 {
    const ZERO: Self = Self::ZERO;

    fn storage_as_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F16(elements) => Some(elements),
            _ => None,
        }
    }

    fn zeros(len: usize) -> Vec<Self> {
        vec![0u16; len].reinterpret_into()
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { simd.load_f16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, value: S::F, to: *mut Self) {
        // SAFETY: the caller's.
        unsafe { simd.store_f16(value, to) }
    }

    #[inline(always)]
    fn round<S: Simd>(simd: S, value: S::F) -> S::F {
        simd.round_f16(value)
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    fn storage_as_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(elements) => Some(elements),
            _ => None,
        }
    }

    fn zeros(len: usize) -> Vec<Self> {
        vec![0.0; len]
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { simd.load_f32(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, value: S::F, to: *mut Self) {
        // SAFETY: the caller's.
        unsafe { simd.store_f32(value, to) }
    }

    #[inline(always)]
    fn round<S: Simd>(_: S, value: S::F) -> S::F {
        value
    }
}

/// Runs `$body` with `$E` naming the element type of `$dtype`; an error for other types.
macro_rules! with_element {
    ($dtype:expr, $op:expr, $E:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::BF16 => {
                type $E = half::bf16;
                $body
            }
            candle_core::DType::F16 => {
                type $E = half::f16;
                $body
            }
            candle_core::DType::F32 => {
                type $E = f32;
                $body
            }
            other => candle_core::bail!("{}: {other:?} tensors; use bf16, f16 or f32", $op),
        }
    };
}
pub(crate) use with_element;

/// Returns the elements of a tensor inside a custom op, in row-major order.
///
/// # Errors
/// When the tensor is strided or of another type; `what` names it.
pub(crate) fn elements<'a, E: Element>(
    storage: &'a CpuStorage,
    layout: &Layout,
    what: &str,
) -> Result<&'a [E]> {
    let Ok(all) = E::cpu_storage_as_slice(storage) else {
        bail!("{what} is {:?}, the other operands are {:?}", storage_dtype(storage), E::DTYPE)
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("{what} has strides {:?}; make it contiguous", layout.stride()),
    }
}

/// Returns the elements as [`elements`] does, for writing.
///
/// # Errors
/// As [`elements`].
pub(crate) fn elements_mut<'a, E: Element>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
    what: &str,
) -> Result<&'a mut [E]> {
    let dtype = storage_dtype(storage);
    let Some(all) = E::storage_as_mut(storage) else {
        bail!("{what} is {dtype:?}, the other operands are {:?}", E::DTYPE)
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut all[start..end]),
        None => bail!("{what} has strides {:?}; make it contiguous", layout.stride()),
    }
}

fn storage_dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage as _;
    storage.dtype()
}

/// A slice that several tasks write at once, each a part of its own.
pub(crate) struct SharedSlice<'a, E> {
    start: *mut E,
    len: usize,
    slice: PhantomData<&'a mut [E]>,
}

// SAFETY: parts handed out do not overlap, by the contract of `part`.
unsafe impl<E: Send> Sync for SharedSlice<'_, E> {}

// === impl SharedSlice ===

impl<'a, E> SharedSlice<'a, E> {
    pub(crate) fn new(slice: &'a mut [E]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    /// No two parts that live at the same time overlap.
    ///
    /// # Panics
    /// When `range` is outside of the slice.
    #[allow(clippy::mut_from_ref, reason = "the contract makes the parts disjoint")]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [E] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside of the slice, and disjoint from other parts by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
