//! Instruction sets: detection, and the compilation of one kernel for each of them.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd};

/// An instruction set that kernels are compiled for.
///
/// `Avx2` and `Avx512` give the same bits. `Avx512Bf16` differs from them in `bf16` products with subnormal
/// operands or sums, which `Avx512Bf16` takes as zero. `Portable` has no fused multiply-add on x86-64, so its
/// last bits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, vectorised by the compiler for the baseline of the target.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// `Avx512` and AVX-512 BF16.
    Avx512Bf16,
    /// The portable path with `bf16` products in the arithmetic of AVX-512 BF16.
    #[cfg(test)]
    PairsModel,
}

/// A kernel, generic over the instruction set.
///
/// `run`, and everything that `run` calls with vectors, must be `#[inline(always)]`: only code that is
/// inlined into [`Isa::dispatch`] is compiled with the instructions of the set. That rule excludes closures.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, simd: S);
}

// === impl Isa ===

impl Isa {
    /// Returns the fastest instruction set of this CPU.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().pop().expect("the portable set is always available")
    }

    /// Returns all instruction sets that this CPU can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// Returns whether this CPU can run the instruction set.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::<false>::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Avx512::<true>::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => false,
            #[cfg(test)]
            Self::PairsModel => true,
        }
    }

    /// Returns whether the instruction set multiplies `bf16` without widening.
    pub(crate) fn multiplies_bf16(self) -> bool {
        match self {
            Self::Avx512Bf16 => true,
            #[cfg(test)]
            Self::PairsModel => true,
            Self::Portable | Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Runs a kernel compiled for the instruction set.
    ///
    /// # Panics
    /// When the CPU lacks the instruction set, which [`crate::Threads`] has excluded.
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) {
        const MISSING: &str = "threads are made only for an available instruction set";
        match self {
            Self::Portable => kernel.run(Portable::<false>),
            #[cfg(test)]
            Self::PairsModel => kernel.run(Portable::<true>),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                let simd = Avx2::detect().expect(MISSING);
                // SAFETY: the token proves the features.
                unsafe { on_avx2(kernel, simd) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                let simd = Avx512::<false>::detect().expect(MISSING);
                // SAFETY: the token proves the features.
                unsafe { on_avx512(kernel, simd) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                let simd = Avx512::<true>::detect().expect(MISSING);
                // SAFETY: the token proves the features.
                unsafe { on_avx512_bf16(kernel, simd) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => unreachable!("{MISSING}"),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(test)]
            Self::PairsModel => "pairs-model",
        })
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn on_avx2<K: Kernel>(kernel: K, simd: Avx2) {
    kernel.run(simd);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn on_avx512<K: Kernel>(kernel: K, simd: Avx512<false>) {
    kernel.run(simd);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn on_avx512_bf16<K: Kernel>(kernel: K, simd: Avx512<true>) {
    kernel.run(simd);
}
