//! Sixteen `f32` lanes, whatever the registers of the CPU.
//!
//! - **SIMD-1** every set has the same 16 virtual lanes and the same reduction tree, so two sets
//!   with a fused multiply-add give the same bits.
//! - **SIMD-2** a value of a type that implements [`Simd`] exists only where the CPU has the
//!   instructions; that is what makes the methods safe.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The rows by vectors that a matrix kernel keeps in registers, tallest first. The last has one
/// row, so that any number of rows is a sum of heights.
pub(crate) type Shapes = &'static [(usize, usize)];

/// The arithmetic of one instruction set. See the module for the contract.
///
/// Functions that take a pointer need it valid for the 16 (or 32) elements they touch.
pub(crate) trait Simd: Copy + Send + Sync {
    /// 16 lanes of `f32`.
    type F: Copy;

    /// `bf16` products go through [`bf16_dot`](Self::bf16_dot), on unwidened operands.
    const BF16_PAIRS: bool = false;
    /// Tiles of a matrix product whose lanes run along the dot products; see [`Shapes`].
    const DOT_SHAPES: Shapes;
    /// Tiles of a matrix product whose lanes are columns; see [`Shapes`].
    const OUTER_SHAPES: Shapes;
    /// Query rows that share a loaded key in attention, at most.
    const SCORE_ROWS: usize;
    /// Query rows that share a loaded value in attention.
    const VALUE_ROWS: usize;

    fn splat(self, value: f32) -> Self::F;

    unsafe fn load_f32(self, from: *const f32) -> Self::F;
    unsafe fn store_f32(self, value: Self::F, to: *mut f32);
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F;
    unsafe fn store_bf16(self, value: Self::F, to: *mut bf16);
    unsafe fn load_f16(self, from: *const f16) -> Self::F;
    unsafe fn store_f16(self, value: Self::F, to: *mut f16);

    /// 32 elements as `[odd, even]`: element `2i + 1` and `2i` in lane `i`. With
    /// [`BF16_PAIRS`](Self::BF16_PAIRS) the first vector holds the 32 elements as they are and
    /// the second is unused.
    unsafe fn load_bf16_pairs(self, from: *const bf16) -> [Self::F; 2];

    /// `sum` plus the products of 16 pairs of `bf16`; see [`bf16_dot_lane`].
    fn bf16_dot(self, sum: Self::F, a: Self::F, b: Self::F) -> Self::F {
        let (mut sums, mut left, mut right) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        // SAFETY: each array is one vector.
        unsafe {
            self.store_f32(sum, sums.as_mut_ptr());
            self.store_f32(a, left.as_mut_ptr());
            self.store_f32(b, right.as_mut_ptr());
        }
        for lane in 0..LANES {
            sums[lane] = bf16_dot_lane(sums[lane], left[lane].to_bits(), right[lane].to_bits());
        }
        // SAFETY: the array is one vector.
        unsafe { self.load_f32(sums.as_ptr()) }
    }

    /// Rounds to the nearest `bf16`, ties to even, and widens again.
    fn round_bf16(self, value: Self::F) -> Self::F;
    /// Rounds to the nearest `f16`, ties to even, and widens again.
    fn round_f16(self, value: Self::F) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// Returns `a * b + c`, fused except in [`Portable`] on x86-64.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { yes } else { no }`.
    fn select_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// `value` in lanes `from..to`, `other` elsewhere.
    fn keep_lanes(self, value: Self::F, from: usize, to: usize, other: Self::F) -> Self::F;
    /// For `value = 1.5 * 2^23 + n` with integer `n` in -126..=127: `2^n`.
    fn pow2(self, value: Self::F) -> Self::F;

    /// Adds the lanes in the tree `(i, i + 8)`, `(i, i + 4)`, `(i, i + 2)`, `(i, i + 1)`.
    fn sum(self, value: Self::F) -> f32;
    /// [`sum`](Self::sum) of each, bit for bit.
    fn sum4(self, values: [Self::F; 4]) -> [f32; 4];
    /// Returns the largest lane. With a NaN among the lanes, any of them.
    fn max_lane(self, value: Self::F) -> f32;

    /// Prefetches the cache line at `address`, which need not exist.
    #[inline(always)]
    fn prefetch(self, address: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch never faults, and every x86-64 has the instruction.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// Prefetches as [`prefetch`](Self::prefetch) does, into the second-level cache only, which can wait for
    /// more lines at once than the first-level cache.
    #[inline(always)]
    fn prefetch_l2(self, address: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch never faults, and every x86-64 has the instruction.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// Transposes: lane `j` of vector `i` becomes lane `i` of vector `j`.
    #[inline(always)]
    fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES] {
        let mut lanes = [[0.0; LANES]; LANES];
        for i in 0..LANES {
            let mut row = [0.0; LANES];
            // SAFETY: the array is one vector.
            unsafe { self.store_f32(vectors[i], row.as_mut_ptr()) };
            for j in 0..LANES {
                lanes[j][i] = row[j];
            }
        }
        let mut transposed = vectors;
        for j in 0..LANES {
            // SAFETY: the array is one vector.
            transposed[j] = unsafe { self.load_f32(lanes[j].as_ptr()) };
        }
        transposed
    }

    /// Returns `e^x` to a relative error of 2e-7 (Cephes `expf`); 0 below -87.33, infinite above 88.37.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        const LOWEST: f32 = -87.33;
        const HIGHEST: f32 = 88.37;
        // Adding it leaves the nearest integer in the low bits of the sum.
        let magic = self.splat(12_582_912.0);
        let clamped = self.min(self.splat(HIGHEST), self.max(self.splat(LOWEST), x));
        let scaled = self.fma(clamped, self.splat(std::f32::consts::LOG2_E), magic);
        let n = self.sub(scaled, magic);
        let r = self.fma(n, self.splat(-0.693_359_4), clamped);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        p = self.fma(p, r, self.splat(1.398_199_9e-3));
        p = self.fma(p, r, self.splat(8.333_452e-3));
        p = self.fma(p, r, self.splat(4.166_579_6e-2));
        p = self.fma(p, r, self.splat(1.666_666_5e-1));
        p = self.fma(p, r, self.splat(0.5));
        p = self.fma(p, self.mul(r, r), r);
        p = self.add(p, self.splat(1.0));
        let e = self.mul(p, self.pow2(scaled));
        let e = self.select_less(x, self.splat(LOWEST), self.splat(0.0), e);
        self.select_less(self.splat(HIGHEST), x, self.splat(f32::INFINITY), e)
    }
}

/// Computes one lane of `VDPBF16PS` by Intel's manual: the odd product is added first, then the even one,
/// each with one rounding to nearest even; subnormal inputs and results are zero.
fn bf16_dot_lane(sum: f32, a: u32, b: u32) -> f32 {
    let flush = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let odd = |x: u32| flush(f32::from_bits(x & 0xffff_0000));
    let even = |x: u32| flush(f32::from_bits(x << 16));
    let sum = flush(odd(a).mul_add(odd(b), flush(sum)));
    flush(even(a).mul_add(even(b), sum))
}

#[cfg(test)]
pub(crate) mod tests;
