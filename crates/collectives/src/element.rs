//! The element types that ranks exchange, and their sums.

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

/// Elements that are summed at once: their `f32` sums stay in the first-level cache.
pub(crate) const TILE: usize = 512;

/// The content type of a message. Part of the message's header: both ends must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    U8 = 1,
    U32,
    Bf16,
    F16,
    F32,
}

mod sealed {
    use super::Kind;

    /// # Safety
    /// Every bit pattern is a value, there is no padding, and the size divides 64.
    pub unsafe trait Plain: Copy + Send + Sync + 'static {
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "the trait is sealed")]
        const KIND: Kind;
    }
}

pub(crate) use sealed::Plain;

/// An element type that ranks can exchange: `u8`, `u32`, `bf16`, `f16` or `f32`.
pub trait Element: Plain {}

/// An element type that can be summed: `bf16`, `f16` or `f32`. Sums are `f32`, rounded once at the end.
pub trait Summand: Element {
    /// Computes `sums[i] = values[i]`.
    #[doc(hidden)]
    fn widen(values: &[Self], sums: &mut [f32]);

    /// Computes `sums[i] += values[i]`.
    #[doc(hidden)]
    fn add(values: &[Self], sums: &mut [f32]);

    /// Computes `values[i] = sums[i]`, to the nearest value, ties to even.
    #[doc(hidden)]
    fn round(sums: &[f32], values: &mut [Self]);
}

macro_rules! element {
    ($type:ty, $kind:ident) => {
        // SAFETY: a number without padding, of 1, 2 or 4 bytes.
        unsafe impl Plain for $type {
            #[allow(private_interfaces, reason = "the trait is sealed")]
            const KIND: Kind = Kind::$kind;
        }
        impl Element for $type {}
    };
}

element!(u8, U8);
element!(u32, U32);
element!(bf16, Bf16);
element!(f16, F16);
element!(f32, F32);

/// Returns the bytes of a slice.
pub(crate) fn bytes_of<T: Plain>(elements: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Returns the bytes of a slice for writing.
pub(crate) fn bytes_of_mut<T: Plain>(elements: &mut [T]) -> &mut [u8] {
    let len = size_of_val(elements);
    // SAFETY: as above, and every bit pattern is a `Plain`.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), len) }
}

/// Returns the bytes as elements.
///
/// # Panics
/// When they are not aligned, or not a whole number of elements.
pub(crate) fn elements_of<T: Plain>(bytes: &[u8]) -> &[T] {
    let start = bytes.as_ptr().cast::<T>();
    assert!(start.is_aligned() && bytes.len().is_multiple_of(size_of::<T>()), "{start:p}");
    // SAFETY: aligned and whole (checked), and every bit pattern is a `Plain`.
    unsafe { std::slice::from_raw_parts(start, bytes.len() / size_of::<T>()) }
}

// === impl Summand ===

impl Summand for f32 {
    #[inline(always)]
    fn widen(values: &[Self], sums: &mut [f32]) {
        sums.copy_from_slice(values);
    }

    #[inline(always)]
    fn add(values: &[Self], sums: &mut [f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }

    #[inline(always)]
    fn round(sums: &[f32], values: &mut [Self]) {
        values.copy_from_slice(sums);
    }
}

impl Summand for bf16 {
    #[inline(always)]
    fn widen(values: &[Self], sums: &mut [f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = widen_bf16(*value);
        }
    }

    #[inline(always)]
    fn add(values: &[Self], sums: &mut [f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += widen_bf16(*value);
        }
    }

    #[inline(always)]
    fn round(sums: &[f32], values: &mut [Self]) {
        for (value, sum) in values.iter_mut().zip(sums) {
            *value = round_bf16(*sum);
        }
    }
}

impl Summand for f16 {
    #[inline(always)]
    fn widen(values: &[Self], sums: &mut [f32]) {
        values.convert_to_f32_slice(sums);
    }

    #[inline(always)]
    fn add(values: &[Self], sums: &mut [f32]) {
        let mut wide = [0.0; TILE];
        let wide = &mut wide[..values.len()];
        values.convert_to_f32_slice(wide);
        f32::add(wide, sums);
    }

    #[inline(always)]
    fn round(sums: &[f32], values: &mut [Self]) {
        values.convert_from_f32_slice(sums);
    }
}

#[inline(always)]
fn widen_bf16(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// `bf16::from_f32` without its branch, which would keep the loop scalar.
#[inline(always)]
fn round_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    let quiet = (bits >> 16) | 0x40;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    bf16::from_bits(if is_nan { quiet } else { nearest } as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_as_the_half_crate_rounds() {
        let edges = [0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xffff_ffff, 0x8000_0000, 0x3f80_8000];
        let spread = (0..=u16::MAX).flat_map(|high| {
            [0x0000, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| u32::from(high) << 16 | low)
        });
        for bits in edges.into_iter().chain(spread) {
            let value = f32::from_bits(bits);
            let expected = bf16::from_f32(value);
            assert_eq!(round_bf16(value).to_bits(), expected.to_bits(), "{bits:08x}");
            assert_eq!(widen_bf16(expected).to_bits(), expected.to_f32().to_bits());
        }
    }
}
