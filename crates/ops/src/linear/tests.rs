//! The AVX-512 BF16 path without the instruction: its tiles, tails and staging on the model.

use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::isa::Isa;
use crate::simd::tests::say_untested;

fn random(rows: usize, columns: usize, seed: u32) -> Tensor {
    let mut state = seed;
    let values: Vec<f32> = (0..rows * columns)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("sizes agree");
    tensor.to_dtype(DType::BF16).expect("bf16 exists")
}

fn bits(isa: Isa, rows: usize, inner: usize, outer: usize) -> Vec<u32> {
    let threads = Threads::with_isa(NonZeroUsize::new(2).expect("not zero"), isa).into();
    let (x, weight) = (random(rows, inner, 1), random(outer, inner, 2));
    let bias = random(1, outer, 3).flatten_all().expect("flat");
    let product = linear_f32(&x, &weight, Some(&bias), &threads).expect("shapes fit");
    let values: Vec<f32> = product.flatten_all().and_then(|t| t.to_vec1()).expect("f32");
    values.iter().map(|value| value.to_bits()).collect()
}

const SHAPES: [(usize, usize, usize); 6] =
    [(1, 32, 4), (1, 31, 9), (13, 95, 66), (25, 1000, 3), (61, 95, 66), (251, 1000, 37)];

/// Without subnormals the pair products and the widened products are the same operations in the
/// same order, so any mistake in lanes, order or tails shows.
#[test]
fn pair_products_have_the_bits_of_widened_products() {
    let Some(fused) = [Isa::Avx512, Isa::Avx2].into_iter().find(|isa| isa.is_available()) else {
        return;
    };
    for (rows, inner, outer) in SHAPES {
        let model = bits(Isa::PairsModel, rows, inner, outer);
        assert_eq!(model, bits(fused, rows, inner, outer), "{rows}x{inner}x{outer}");
    }
}

#[test]
fn the_bf16_path_has_the_bits_of_its_model() {
    if !Isa::Avx512Bf16.is_available() {
        say_untested(Isa::Avx512Bf16);
        return;
    }
    for (rows, inner, outer) in SHAPES {
        let model = bits(Isa::PairsModel, rows, inner, outer);
        assert_eq!(model, bits(Isa::Avx512Bf16, rows, inner, outer), "{rows}x{inner}x{outer}");
    }
}
