//! AVX2 with FMA and F16C: two registers are one vector.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Shapes, Simd};

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

/// Lanes 0 to 7, lanes 8 to 15.
type F = [__m256; 2];

/// Intrinsics whose only condition is the instruction set.
macro_rules! proven {
    ($value:expr) => {
        // SAFETY: `Self` exists only where the CPU has the instructions (**SIMD-2**).
        unsafe { $value }
    };
}

// === impl Avx2 ===

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// The bits of the nearest `bf16` in the low half of each lane; a NaN stays one.
    #[inline(always)]
    fn bf16_bits(self, value: __m256) -> __m256i {
        proven! {{
            let bits = _mm256_castps_si256(value);
            let lowest_kept = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let bias = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), lowest_kept);
            let nearest = _mm256_add_epi32(bits, bias);
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(nearest, quiet, nan))
        }}
    }
}

impl Simd for Avx2 {
    type F = F;

    const DOT_SHAPES: Shapes = &[(2, 2), (1, 4)];
    const OUTER_SHAPES: Shapes = &[(6, 1), (4, 1), (2, 1), (1, 1)];
    const SCORE_ROWS: usize = 4;
    const VALUE_ROWS: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> F {
        proven!([_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> F {
        // SAFETY: the caller's: 16 elements.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store_f32(self, value: F, to: *mut f32) {
        // SAFETY: the caller's: 16 elements.
        unsafe {
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> F {
        // SAFETY: the caller's: 16 elements.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, value: F, to: *mut bf16) {
        let (low, high) = (self.bf16_bits(value[0]), self.bf16_bits(value[1]));
        // SAFETY: the caller's: 16 elements.
        unsafe {
            // Packing works within halves of a register; the permutation puts them in order.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(to.cast(), packed);
        }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> F {
        // SAFETY: the caller's: 16 elements.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, value: F, to: *mut f16) {
        // SAFETY: the caller's: 16 elements.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[1]);
            _mm_storeu_si128(to.cast(), low);
            _mm_storeu_si128(to.add(8).cast(), high);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const bf16) -> [F; 2] {
        // SAFETY: the caller's: 32 elements.
        unsafe {
            let low = _mm256_loadu_si256(from.cast());
            let high = _mm256_loadu_si256(from.add(16).cast());
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            [
                [
                    _mm256_castsi256_ps(_mm256_and_si256(low, mask)),
                    _mm256_castsi256_ps(_mm256_and_si256(high, mask)),
                ],
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                ],
            ]
        }
    }

    #[inline(always)]
    fn round_bf16(self, value: F) -> F {
        proven! {[
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(self.bf16_bits(value[0]))),
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(self.bf16_bits(value[1]))),
        ]}
    }

    #[inline(always)]
    fn round_f16(self, value: F) -> F {
        proven! {[
            _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[0])),
            _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[1])),
        ]}
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        proven!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        proven!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        proven!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        proven!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        proven!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        proven!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        proven!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn select_less(self, a: F, b: F, yes: F, no: F) -> F {
        proven! {[
            _mm256_blendv_ps(no[0], yes[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(no[1], yes[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ]}
    }

    #[inline(always)]
    fn keep_lanes(self, value: F, from: usize, to: usize, other: F) -> F {
        proven! {{
            let lanes = [
                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15),
            ];
            let (below, end) = (_mm256_set1_epi32(from as i32 - 1), _mm256_set1_epi32(to as i32));
            let mut kept = value;
            for half in 0..2 {
                let inside = _mm256_and_si256(
                    _mm256_cmpgt_epi32(lanes[half], below),
                    _mm256_cmpgt_epi32(end, lanes[half]),
                );
                let inside = _mm256_castsi256_ps(inside);
                kept[half] = _mm256_blendv_ps(other[half], value[half], inside);
            }
            kept
        }}
    }

    #[inline(always)]
    fn pow2(self, value: F) -> F {
        proven! {{
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_castps_si256(value[0]), bias);
            let high = _mm256_add_epi32(_mm256_castps_si256(value[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        }}
    }

    #[inline(always)]
    fn sum(self, value: F) -> f32 {
        proven! {{
            let eight = _mm256_add_ps(value[0], value[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }}
    }

    #[inline(always)]
    fn sum4(self, values: [F; 4]) -> [f32; 4] {
        [self.sum(values[0]), self.sum(values[1]), self.sum(values[2]), self.sum(values[3])]
    }

    #[inline(always)]
    fn max_lane(self, value: F) -> f32 {
        proven! {{
            let eight = _mm256_max_ps(value[0], value[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }}
    }
}
