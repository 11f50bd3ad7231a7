//! AVX-512: one register is one vector.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{LANES, Shapes, Simd};

/// Proof that the CPU has AVX-512 F, BW, DQ and VL, and with `BF16` also AVX-512 BF16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const BF16: bool>(());

/// Intrinsics whose only condition is the instruction set.
macro_rules! proven {
    ($value:expr) => {
        // SAFETY: `Self` exists only where the CPU has the instructions (**SIMD-2**).
        unsafe { $value }
    };
}

// === impl Avx512 ===

impl<const BF16: bool> Avx512<BF16> {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        found.then_some(Self(()))
    }

    /// The bits of the nearest `bf16` in the low half of each lane; a NaN stays one.
    #[inline(always)]
    fn bf16_bits(self, value: __m512) -> __m512i {
        proven! {{
            let bits = _mm512_castps_si512(value);
            let lowest_kept = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let bias = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), lowest_kept);
            let nearest = _mm512_add_epi32(bits, bias);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let quiet = _mm512_set1_epi32(0x0040_0000);
            _mm512_srli_epi32::<16>(_mm512_mask_or_epi32(nearest, nan, bits, quiet))
        }}
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;

    const BF16_PAIRS: bool = BF16;
    // One row waits for memory only: a single stream is what the hardware prefetches best.
    const DOT_SHAPES: Shapes = &[(6, 4), (4, 4), (2, 4), (1, 1)];
    // 24 of 32 registers; the rest for weights and activations.
    const OUTER_SHAPES: Shapes = &[(12, 2), (8, 2), (4, 2), (2, 2), (1, 2)];
    const SCORE_ROWS: usize = 8;
    const VALUE_ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proven!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> __m512 {
        // SAFETY: the caller's: 16 elements.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_f32(self, value: __m512, to: *mut f32) {
        // SAFETY: the caller's: 16 elements.
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        // SAFETY: the caller's: 16 elements.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, value: __m512, to: *mut bf16) {
        // SAFETY: the caller's: 16 elements.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(self.bf16_bits(value))) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        // SAFETY: the caller's: 16 elements.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, value: __m512, to: *mut f16) {
        // SAFETY: the caller's: 16 elements.
        unsafe {
            let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
            _mm256_storeu_si256(to.cast(), narrow);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(self, from: *const bf16) -> [__m512; 2] {
        // SAFETY: the caller's: 32 elements.
        let raw = unsafe { _mm512_loadu_si512(from.cast()) };
        proven! {{
            if BF16 {
                return [_mm512_castsi512_ps(raw), _mm512_setzero_ps()];
            }
            let odd = _mm512_and_si512(raw, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let even = _mm512_slli_epi32::<16>(raw);
            [_mm512_castsi512_ps(odd), _mm512_castsi512_ps(even)]
        }}
    }

    #[inline(always)]
    fn bf16_dot(self, sum: __m512, a: __m512, b: __m512) -> __m512 {
        assert!(BF16, "only called with BF16_PAIRS");
        // SAFETY: `Self` with `BF16` exists only where the CPU has the instruction, and the types
        // have one size and no invalid bits.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }

    #[inline(always)]
    fn round_bf16(self, value: __m512) -> __m512 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(self.bf16_bits(value))))
    }

    #[inline(always)]
    fn round_f16(self, value: __m512) -> __m512 {
        proven!(_mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        proven!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }

    #[inline(always)]
    fn keep_lanes(self, value: __m512, from: usize, to: usize, other: __m512) -> __m512 {
        let kept = ((1u32 << to) - 1) & !((1u32 << from) - 1);
        proven!(_mm512_mask_blend_ps(kept as u16, other, value))
    }

    #[inline(always)]
    fn pow2(self, value: __m512) -> __m512 {
        proven! {{
            let n = _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        }}
    }

    #[inline(always)]
    fn sum(self, value: __m512) -> f32 {
        proven! {{
            let high = _mm512_extractf32x8_ps::<1>(value);
            let eight = _mm256_add_ps(_mm512_castps512_ps256(value), high);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }}
    }

    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        proven! {{
            // Lanes (i, i + 8) of two vectors side by side.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            // Then (i, i + 4): a quarter for each vector.
            let all = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let all = _mm512_add_ps(all, _mm512_permute_ps::<0b01_00_11_10>(all));
            let all = _mm512_add_ps(all, _mm512_permute_ps::<0b10_11_00_01>(all));
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let sums = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        }}
    }

    #[inline(always)]
    fn transpose(self, vectors: [__m512; LANES]) -> [__m512; LANES] {
        proven! {{
            // Within each quarter, four by four: first pairs, then pairs of pairs.
            let mut fours = vectors;
            for i in (0..LANES).step_by(4) {
                let ab = [
                    _mm512_castps_pd(_mm512_unpacklo_ps(vectors[i], vectors[i + 1])),
                    _mm512_castps_pd(_mm512_unpackhi_ps(vectors[i], vectors[i + 1])),
                ];
                let cd = [
                    _mm512_castps_pd(_mm512_unpacklo_ps(vectors[i + 2], vectors[i + 3])),
                    _mm512_castps_pd(_mm512_unpackhi_ps(vectors[i + 2], vectors[i + 3])),
                ];
                for half in 0..2 {
                    let (low, high) = (ab[half], cd[half]);
                    fours[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    fours[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            // Then the quarters of vectors `j`, `j + 4`, `j + 8` and `j + 12`, four by four.
            let mut transposed = fours;
            for j in 0..4 {
                let ab = [
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(fours[j], fours[j + 4]),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(fours[j], fours[j + 4]),
                ];
                let cd = [
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(fours[j + 8], fours[j + 12]),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(fours[j + 8], fours[j + 12]),
                ];
                for odd in 0..2 {
                    let (low, high) = (ab[odd], cd[odd]);
                    transposed[j + 4 * odd] = _mm512_shuffle_f32x4::<0b10_00_10_00>(low, high);
                    transposed[j + 4 * odd + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(low, high);
                }
            }
            transposed
        }}
    }

    #[inline(always)]
    fn max_lane(self, value: __m512) -> f32 {
        proven!(_mm512_reduce_max_ps(value))
    }
}
