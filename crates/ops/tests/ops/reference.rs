//! The ops in `f64`, written as in the textbook, with the roundings of Hugging Face.

use candle_core::DType;
use half::{bf16, f16};

/// A matrix of `f64`, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) data: Vec<f64>,
}

impl Matrix {
    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.width..(row + 1) * self.width]
    }
}

/// To the nearest value of `dtype`.
pub(crate) fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => bf16::from_f32(value as f32).to_f64(),
        DType::F16 => f16::from_f32(value as f32).to_f64(),
        _ => f64::from(value as f32),
    }
}

/// The distance from 1 to the next value of `dtype`.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-7),
        DType::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-23),
    }
}

/// Returns the products and, for each, the sum of absolute products: what an error scales with.
pub(crate) fn linear(x: &Matrix, weight: &Matrix, bias: Option<&[f64]>) -> (Matrix, Matrix) {
    let mut sums = Matrix { rows: x.rows, width: weight.rows, data: Vec::new() };
    let mut sizes = sums.clone();
    for row in 0..x.rows {
        for column in 0..weight.rows {
            let products = x.row(row).iter().zip(weight.row(column)).map(|(a, b)| a * b);
            let bias = bias.map_or(0.0, |bias| bias[column]);
            sums.data.push(products.clone().sum::<f64>() + bias);
            sizes.data.push(products.map(f64::abs).sum::<f64>() + bias.abs());
        }
    }
    (sums, sizes)
}

pub(crate) fn rms_norm(x: &[f64], weight: &[f64], eps: f64, dtype: DType) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| round(w * round(x * scale, dtype), dtype)).collect()
}

pub(crate) fn rope(head: &[f64], cos: &[f64], sin: &[f64], dtype: DType) -> Vec<f64> {
    let r = |value| round(value, dtype);
    let half = head.len() / 2;
    let low = (0..half).map(|i| {
        let (cos, sin) = (r(cos[i]), r(sin[i]));
        r(r(head[i] * cos) - r(head[i + half] * sin))
    });
    let high = (0..half).map(|i| {
        let (cos, sin) = (r(cos[i]), r(sin[i]));
        r(r(head[i + half] * cos) + r(head[i] * sin))
    });
    low.chain(high).collect()
}

pub(crate) fn silu_mul(gate: f64, up: f64, dtype: DType) -> f64 {
    round(round(gate / (1.0 + (-gate).exp()), dtype) * up, dtype)
}

/// One query over the keys and values it sees.
pub(crate) fn attention(q: &[f64], keys: &[&[f64]], values: &[&[f64]], scale: f64) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .iter()
        .map(|key| scale * q.iter().zip(*key).map(|(a, b)| a * b).sum::<f64>())
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len())
        .map(|d| weights.iter().zip(values).map(|(w, v)| w * v[d]).sum::<f64>() / total)
        .collect()
}
