use std::ops::Range;

use candle_core::{DType, Tensor};
use playhouse_ops::{Isa, KvLayer, Ragged, RopeRows, Sequence, rope_and_store};
use playhouse_types::{BlockId, BlockSize};

use crate::operands::{DTYPES, isas, matrix, random, threads, values};
use crate::reference;

fn angles(rows: usize, half: usize) -> RopeRows {
    let angle = |i: usize| (i / half) as f32 * 0.7 / 10f32.powf((i % half) as f32 / half as f32);
    RopeRows {
        cos: (0..rows * half).map(|i| 1.1 * angle(i).cos()).collect(),
        sin: (0..rows * half).map(|i| 1.1 * angle(i).sin()).collect(),
    }
}

fn rotated(x: &Tensor, rope: &RopeRows, head_dim: usize) -> Vec<f32> {
    let (rows, half) = (matrix(x), head_dim / 2);
    let widen = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    (0..rows.rows)
        .flat_map(|row| {
            let cos = widen(&rope.cos[row * half..(row + 1) * half]);
            let sin = widen(&rope.sin[row * half..(row + 1) * half]);
            rows.row(row)
                .chunks(head_dim)
                .flat_map(|head| reference::rope(head, &cos, &sin, x.dtype()))
                .map(|value| value as f32)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Every rounding is of an exact product or sum, so there is nothing to tolerate.
#[test]
fn queries_rotate_and_keys_are_stored_rotated() {
    for dtype in DTYPES {
        for head_dim in [2, 16, 20, 64, 80] {
            let (rows, start) = (23, 11);
            let q = random(&[rows, 3 * head_dim], dtype, 1);
            let k = random(&[rows, 2 * head_dim], dtype, 2);
            let v = random(&[rows, 2 * head_dim], dtype, 3);
            let rope = angles(rows, head_dim / 2);
            let blocks = [4, 0, 2].map(BlockId);
            let sequence = Sequence { first_row: 0, rows, start, blocks: &blocks };
            let ragged = Ragged::new(vec![sequence], BlockSize::CPU).unwrap();
            for isa in isas() {
                let cache = KvLayer::zeros(5, BlockSize::CPU, 2, head_dim, dtype).unwrap();
                let pool = threads(2, isa);
                let turned = rope_and_store(&q, &k, &v, &rope, &cache, &ragged, &pool).unwrap();
                assert_eq!(values(&turned), rotated(&q, &rope, head_dim), "{dtype:?} {isa}");
                let (keys, tokens) = stored(&cache, &blocks, start..start + rows);
                assert_eq!(keys, rotated(&k, &rope, head_dim), "keys {dtype:?} {isa}");
                assert_eq!(tokens, values(&v), "values {dtype:?} {isa}");
            }
        }
    }
}

/// Keys and values of the tokens, head by head, as the cache documents its layout.
fn stored(cache: &KvLayer, blocks: &[BlockId], positions: Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let (_, heads, head_dim, _) = cache.keys().dims4().unwrap();
    let (all_keys, all_values) = (values(cache.keys()), values(cache.values()));
    let (mut keys, mut tokens) = (Vec::new(), Vec::new());
    for position in positions {
        let (block, slot) = (blocks[position / 16].0 as usize, position % 16);
        for head in 0..heads {
            let start = (block * heads + head) * 16 * head_dim;
            keys.extend((0..head_dim).map(|d| all_keys[start + d * 16 + slot]));
            let start = start + slot * head_dim;
            tokens.extend_from_slice(&all_values[start..start + head_dim]);
        }
    }
    (keys, tokens)
}

#[test]
fn wrong_operands_are_errors_and_leave_the_cache_alone() {
    let pool = threads(1, Isa::Portable);
    let cache = KvLayer::zeros(1, BlockSize::CPU, 1, 4, DType::F32).unwrap();
    let good = random(&[2, 4], DType::F32, 1);
    let refused = |k: &Tensor, v: &Tensor, rope: &RopeRows, block, text: &str| {
        let blocks = &[BlockId(block)];
        let sequence = Sequence { first_row: 0, rows: 2, start: 0, blocks };
        let ragged = Ragged::new(vec![sequence], BlockSize::CPU);
        let found = rope_and_store(&good, k, v, rope, &cache, &ragged.unwrap(), &pool);
        let error = found.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let wide = random(&[2, 8], DType::F32, 1);
    refused(&good, &wide, &angles(2, 2), 0, "v is [2, 8], both need [2, 4]");
    refused(&good, &good, &angles(1, 2), 0, "2 cosines and 2 sines, 2 rows of heads of 4");
    refused(&good, &good, &angles(2, 2), 1, "block 1 is in use, the cache has 1");
    let half = good.to_dtype(DType::F16).unwrap();
    refused(&good, &half, &angles(2, 2), 0, "v is F16, needs to be a contiguous F32");
    assert_eq!(values(cache.keys()), [0.0; 64]);
}
