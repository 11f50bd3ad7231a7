//! Plain Rust over arrays, in a form that the compiler vectorises.

use half::{bf16, f16};

use super::{LANES, Shapes, Simd};

/// Any CPU. With `PAIRS`, `bf16` products are taken as AVX-512 BF16 takes them: a model of that
/// path for machines without it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable<const PAIRS: bool>;

type F = [f32; LANES];

macro_rules! lanes {
    ($lane:ident => $value:expr) => {{
        let mut lanes = [0.0f32; LANES];
        let mut $lane = 0;
        while $lane < LANES {
            lanes[$lane] = $value;
            $lane += 1;
        }
        lanes
    }};
}

// === impl Portable ===

impl<const PAIRS: bool> Simd for Portable<PAIRS> {
    type F = F;

    const BF16_PAIRS: bool = PAIRS;
    const DOT_SHAPES: Shapes = &[(1, 2)];
    const OUTER_SHAPES: Shapes = &[(2, 1), (1, 1)];
    const SCORE_ROWS: usize = 2;
    const VALUE_ROWS: usize = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> F {
        // SAFETY: the caller's: 16 elements.
        unsafe { from.cast::<F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_f32(self, value: F, to: *mut f32) {
        // SAFETY: the caller's: 16 elements.
        unsafe { to.cast::<F>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> F {
        // SAFETY: the caller's: 16 elements.
        let raw = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes!(i => f32::from_bits(u32::from(raw[i]) << 16))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, value: F, to: *mut bf16) {
        let mut raw = [0u16; LANES];
        for (raw, value) in raw.iter_mut().zip(&value) {
            *raw = (rounded_to_bf16(*value) >> 16) as u16;
        }
        // SAFETY: the caller's: 16 elements.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(raw) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> F {
        // SAFETY: the caller's: 16 elements.
        let raw = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        lanes!(i => widened_f16(raw[i]))
    }

    #[inline(always)]
    unsafe fn store_f16(self, value: F, to: *mut f16) {
        let mut raw = [f16::ZERO; LANES];
        for (raw, value) in raw.iter_mut().zip(&value) {
            *raw = f16::from_f32(*value);
        }
        // SAFETY: the caller's: 16 elements.
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(raw) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const bf16) -> [F; 2] {
        // SAFETY: the caller's: 32 elements.
        let raw = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        // The first element of a pair is the low half in a little-endian word.
        let raw = raw.map(u32::from_le);
        if PAIRS {
            return [lanes!(i => f32::from_bits(raw[i])), [0.0; LANES]];
        }
        [
            lanes!(i => f32::from_bits(raw[i] & 0xffff_0000)),
            lanes!(i => f32::from_bits(raw[i] << 16)),
        ]
    }

    #[inline(always)]
    fn round_bf16(self, value: F) -> F {
        lanes!(i => f32::from_bits(rounded_to_bf16(value[i])))
    }

    #[inline(always)]
    fn round_f16(self, value: F) -> F {
        lanes!(i => f16::from_f32(value[i]).to_f32())
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        lanes!(i => a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        lanes!(i => a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        lanes!(i => a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        lanes!(i => a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // The x86-64 baseline has no such instruction, and the library call would cost 20 times.
        if cfg!(target_arch = "x86_64") {
            lanes!(i => a[i] * b[i] + c[i])
        } else {
            lanes!(i => a[i].mul_add(b[i], c[i]))
        }
    }

    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn select_less(self, a: F, b: F, yes: F, no: F) -> F {
        lanes!(i => if a[i] < b[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn keep_lanes(self, value: F, from: usize, to: usize, other: F) -> F {
        lanes!(i => if i >= from && i < to { value[i] } else { other[i] })
    }

    #[inline(always)]
    fn pow2(self, value: F) -> F {
        lanes!(i => f32::from_bits(value[i].to_bits().wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn sum(self, value: F) -> f32 {
        let mut lanes = value;
        let mut half = LANES / 2;
        while half > 0 {
            let mut i = 0;
            while i < half {
                lanes[i] += lanes[i + half];
                i += 1;
            }
            half /= 2;
        }
        lanes[0]
    }

    #[inline(always)]
    fn sum4(self, values: [F; 4]) -> [f32; 4] {
        [self.sum(values[0]), self.sum(values[1]), self.sum(values[2]), self.sum(values[3])]
    }

    #[inline(always)]
    fn max_lane(self, value: F) -> f32 {
        let mut largest = value[0];
        for &lane in &value[1..] {
            largest = if lane > largest { lane } else { largest };
        }
        largest
    }
}

/// The bits of the nearest `bf16`, in the upper half; a NaN stays one.
#[inline(always)]
fn rounded_to_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let quiet = bits | 0x0040_0000;
    (if value.is_nan() { quiet } else { nearest }) & 0xffff_0000
}

/// Exact. The exponent is moved by a multiplication, which also normalises subnormals; infinities
/// and NaNs then lack the rest of their exponent.
#[inline(always)]
fn widened_f16(raw: u16) -> f32 {
    let raw = u32::from(raw);
    let rescaled = f32::from_bits((raw & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let special = if raw & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(rescaled.to_bits() | special | (raw & 0x8000) << 16)
}
