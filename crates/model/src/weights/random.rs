//! Random weights, for benchmarks: speed does not depend on what a model has learned.

use candle_core::{DType, Device, Tensor};
use playhouse_types::{DecoderSpec, splitmix64};

use super::{Dtype, Weights, WeightsError};
use crate::Shard;

// === impl Weights ===

impl Weights {
    /// Returns the weights of `spec` drawn from `seed`. Matrices are uniform with variance `1 / width`, which
    /// keeps activations of order one; vectors (norms, biases) are uniform in [0.5, 1.5). [`Dtype::Auto`]
    /// means f32.
    ///
    /// # Errors
    /// [`WeightsError::Device`], and [`WeightsError::Unsupported`].
    pub fn random(spec: &DecoderSpec, dtype: Dtype, seed: u64) -> Result<Self, WeightsError> {
        let dtype = dtype.candle().unwrap_or(DType::F32);
        let mut state = seed;
        Self::assemble(spec, &Shard::whole(spec), dtype, |wanted| {
            state = splitmix64(state);
            uniform(&wanted.shape, state)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .map_err(|source| WeightsError::Device { tensor: wanted.name.clone(), source })
        })
    }
}

fn uniform(shape: &[usize], seed: u64) -> candle_core::Result<Tensor> {
    let (center, spread) = match *shape {
        [_, width] => (0.0, (12.0 / width as f32).sqrt()),
        _ => (1.0, 1.0),
    };
    let count: usize = shape.iter().product();
    let value = |index: u64| {
        // The top 24 bits fill the mantissa of an f32.
        let unit = (splitmix64(seed ^ index) >> 40) as f32 / (1 << 24) as f32;
        center + spread * (unit - 0.5)
    };
    let values: Vec<f32> = (0..count as u64).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}
