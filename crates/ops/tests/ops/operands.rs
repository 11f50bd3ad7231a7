//! Random tensors, their values, and the paths to run them on.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Once;

use candle_core::{DType, Device, Tensor};
use playhouse_ops::{Context, Isa, Threads};

use crate::reference::Matrix;

pub(crate) const DTYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

/// Values between -1 and 1, the same for the same seed.
pub(crate) fn random(dims: &[usize], dtype: DType, seed: u64) -> Tensor {
    let len = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    tensor(values, dims, dtype)
}

pub(crate) fn tensor(values: Vec<f32>, dims: &[usize], dtype: DType) -> Tensor {
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits of each element, widened to `f32`.
pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    values(tensor).iter().map(|value| value.to_bits()).collect()
}

/// All but the last dimension become rows.
pub(crate) fn matrix(tensor: &Tensor) -> Matrix {
    let width = *tensor.dims().last().unwrap();
    let data: Vec<f64> = values(tensor).iter().map(|&value| f64::from(value)).collect();
    Matrix { rows: data.len() / width, width, data }
}

pub(crate) fn threads(count: usize, isa: Isa) -> Context {
    Threads::with_isa(NonZeroUsize::new(count).unwrap(), isa).into()
}

/// The instruction sets of this machine. Says loudly which ones go untested.
pub(crate) fn isas() -> Vec<Isa> {
    static ONCE: Once = Once::new();
    let isas = Isa::available();
    ONCE.call_once(|| {
        for isa in [Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16] {
            if !isas.contains(&isa) {
                // Past the capture of test output.
                let text = format!("\n*** NOT TESTED: this CPU has no {isa} ***\n");
                std::io::stderr().write_all(text.as_bytes()).unwrap();
            }
        }
    });
    isas
}

/// Asserts that `found` is within `tolerance(index)` of `expected`.
pub(crate) fn assert_close(
    found: &[f32],
    expected: &[f64],
    tolerance: impl Fn(usize) -> f64,
    what: &str,
) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        let allowed = tolerance(index);
        assert!(error <= allowed, "{what}: [{index}] is {found}, expected {expected} +- {allowed}");
    }
}
