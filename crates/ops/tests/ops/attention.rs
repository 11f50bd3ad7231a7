use std::ops::Range;

use candle_core::{DType, Tensor};
use playhouse_ops::{
    Context, Isa, KvLayer, Ragged, RopeRows, Sequence, paged_attention, rope_and_store,
};
use playhouse_types::{BlockId, BlockSize};
use proptest::prelude::*;

use crate::operands::{DTYPES, assert_close, bits, isas, matrix, random, tensor, threads, values};
use crate::reference;

/// The shape of an attention layer.
#[derive(Clone, Copy, Debug)]
struct Layer {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    dtype: DType,
}

/// Queries, keys and values of one whole sequence, before it is cut into steps.
struct Tokens {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Vec<BlockId>,
}

impl Layer {
    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn cache(&self, blocks: usize) -> KvLayer {
        KvLayer::zeros(blocks, BlockSize::CPU, self.kv_heads, self.head_dim, self.dtype).unwrap()
    }

    /// `len` random tokens in scattered blocks between `first_block` and `first_block + 64`.
    fn tokens(&self, len: usize, first_block: u32, seed: u64) -> Tokens {
        let width = self.kv_heads * self.head_dim;
        let blocks = (0..64).map(|i| BlockId(first_block + (i * 37 + seed as u32) % 64));
        Tokens {
            q: random(&[len, self.heads * self.head_dim], self.dtype, 10 * seed + 1),
            k: random(&[len, width], self.dtype, 10 * seed + 2),
            v: random(&[len, width], self.dtype, 10 * seed + 3),
            blocks: blocks.take(len.div_ceil(16)).collect(),
        }
    }

    /// One step over parts of sequences, with a rope that rotates nothing.
    fn step(&self, cache: &KvLayer, parts: &[(&Tokens, Range<usize>)], pool: &Context) -> Tensor {
        let mut first_row = 0;
        let sequences = parts.iter().map(|(tokens, range)| {
            let first = first_row;
            first_row += range.len();
            let blocks = &tokens.blocks[..];
            Sequence { first_row: first, rows: range.len(), start: range.start, blocks }
        });
        let ragged = Ragged::new(sequences.collect(), BlockSize::CPU).unwrap();
        let cat = |pick: fn(&Tokens) -> &Tensor| {
            let parts: Vec<Tensor> = parts
                .iter()
                .map(|(tokens, range)| pick(tokens).narrow(0, range.start, range.len()).unwrap())
                .collect();
            Tensor::cat(&parts, 0).unwrap()
        };
        let half = ragged.rows() * self.head_dim / 2;
        let rope = RopeRows { cos: vec![1.0; half], sin: vec![0.0; half] };
        let (q, k, v) = (cat(|t| &t.q), cat(|t| &t.k), cat(|t| &t.v));
        let q = rope_and_store(&q, &k, &v, &rope, cache, &ragged, pool).unwrap();
        paged_attention(&q, cache, &ragged, self.scale(), self.window, pool).unwrap()
    }

    fn expected(&self, tokens: &Tokens) -> Vec<f64> {
        let (q, k, v) = (matrix(&tokens.q), matrix(&tokens.k), matrix(&tokens.v));
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let mut out = Vec::new();
        for row in 0..q.rows {
            let seen = (row + 1).saturating_sub(self.window.unwrap_or(usize::MAX))..row + 1;
            for head in 0..self.heads {
                let kv = head / group * dim..(head / group + 1) * dim;
                let keys: Vec<_> = seen.clone().map(|t| &k.row(t)[kv.clone()]).collect();
                let values: Vec<_> = seen.clone().map(|t| &v.row(t)[kv.clone()]).collect();
                let q = &q.row(row)[head * dim..(head + 1) * dim];
                out.extend(reference::attention(q, &keys, &values, f64::from(self.scale())));
            }
        }
        out
    }
}

#[test]
fn attention_agrees_with_f64() {
    let shapes = [
        (1, 1, 16, 1, None),
        (4, 2, 32, 17, None),
        (7, 1, 64, 90, None),
        (14, 2, 64, 70, None),
        (8, 1, 80, 33, Some(5)),
        (4, 4, 128, 130, Some(64)),
        (2, 1, 24, 150, Some(100)),
        (6, 2, 6, 40, Some(1)),
    ];
    for dtype in DTYPES {
        for (heads, kv_heads, head_dim, len, window) in shapes {
            let layer = Layer { heads, kv_heads, head_dim, window, dtype };
            let tokens = layer.tokens(len, 0, 1);
            let expected = layer.expected(&tokens);
            for isa in isas() {
                let cache = layer.cache(64);
                let found = layer.step(&cache, &[(&tokens, 0..len)], &threads(2, isa));
                let noise = |i: usize| reference::epsilon(dtype) * expected[i].abs() + 2e-6;
                assert_close(&values(&found), &expected, noise, &format!("{layer:?} {isa}"));
            }
        }
    }
}

/// OP-1: decode after prefill, whole prefill, chunks, and company give the same bits.
#[test]
fn chunks_company_and_threads_do_not_change_a_row() {
    for dtype in DTYPES {
        for window in [None, Some(70)] {
            let layer = Layer { heads: 7, kv_heads: 1, head_dim: 64, window, dtype };
            let (tokens, other) = (layer.tokens(200, 0, 1), layer.tokens(40, 64, 2));
            for isa in isas() {
                let whole = layer.step(&layer.cache(128), &[(&tokens, 0..200)], &threads(1, isa));
                let whole = bits(&whole);
                for (chunk, count) in [(1, 1), (7, 2), (64, 3), (130, 2)] {
                    let (cache, pool) = (layer.cache(128), threads(count, isa));
                    let mut parts = Vec::new();
                    for start in (0..200).step_by(chunk) {
                        let range = start..200.min(start + chunk);
                        let rows = range.len();
                        let step = if start < 40 {
                            layer.step(
                                &cache,
                                &[(&other, start..start + 1), (&tokens, range)],
                                &pool,
                            )
                        } else {
                            layer.step(&cache, &[(&tokens, range)], &pool)
                        };
                        let company = step.dim(0).unwrap() - rows;
                        parts.extend(bits(&step.narrow(0, company, rows).unwrap()));
                    }
                    assert!(
                        whole == parts,
                        "chunks of {chunk} on {count} threads, {isa} {layer:?}"
                    );
                }
            }
        }
    }
}

/// OP-2 and ATT-2: later tokens of the same step and the rest of a block do not shine through.
#[test]
fn non_finite_values_reach_only_rows_that_see_them() {
    for dtype in DTYPES {
        let layer = Layer { heads: 4, kv_heads: 2, head_dim: 20, window: Some(30), dtype };
        let clean = layer.tokens(90, 0, 3);
        let poison = |tensor_: &Tensor| {
            let width = tensor_.dims()[1];
            let mut poisoned = values(tensor_);
            poisoned[50 * width..51 * width].fill(f32::NAN);
            tensor(poisoned, &[90, width], dtype)
        };
        let poisoned = Tokens {
            q: poison(&clean.q),
            k: poison(&clean.k),
            v: poison(&clean.v),
            blocks: clean.blocks.clone(),
        };
        for isa in isas() {
            let run = |tokens: &Tokens| {
                bits(&layer.step(&layer.cache(64), &[(tokens, 0..90)], &threads(2, isa)))
            };
            let (clean, poisoned) = (run(&clean), run(&poisoned));
            for row in (0..90).filter(|row| !(50..80).contains(row)) {
                let span = row * 80..(row + 1) * 80;
                assert_eq!(clean[span.clone()], poisoned[span], "row {row} {dtype:?} {isa}");
            }
            assert!(f32::from_bits(poisoned[79 * 80]).is_nan(), "row 79 sees row 50");
        }
    }
}

/// A block that served another sequence keeps its bits; they must not count.
#[test]
fn what_a_block_held_before_does_not_count() {
    let layer = Layer { heads: 2, kv_heads: 1, head_dim: 16, window: None, dtype: DType::F32 };
    for isa in isas() {
        let pool = threads(1, isa);
        let (mut stale, fresh) = (layer.tokens(64, 0, 4), layer.tokens(21, 0, 4));
        stale.v = (stale.v * f64::NAN).unwrap();
        stale.k = (stale.k * f64::NAN).unwrap();
        let clean = bits(&layer.step(&layer.cache(64), &[(&fresh, 0..21)], &pool));
        let cache = layer.cache(64);
        layer.step(&cache, &[(&stale, 0..64)], &pool);
        assert_eq!(clean, bits(&layer.step(&cache, &[(&fresh, 0..21)], &pool)), "{isa}");
    }
}

/// SIMD-1.
#[test]
fn avx2_and_avx512_give_the_same_bits() {
    if !isas().contains(&Isa::Avx512) {
        return;
    }
    for dtype in DTYPES {
        let layer = Layer { heads: 6, kv_heads: 2, head_dim: 40, window: None, dtype };
        let tokens = layer.tokens(150, 0, 5);
        let [narrow, wide] = [Isa::Avx2, Isa::Avx512]
            .map(|isa| bits(&layer.step(&layer.cache(64), &[(&tokens, 0..150)], &threads(1, isa))));
        assert!(narrow == wide, "{dtype:?}");
    }
}

#[test]
fn wrong_operands_are_errors() {
    let pool = threads(1, Isa::Portable);
    let cache = KvLayer::zeros(2, BlockSize::CPU, 1, 16, DType::F32).unwrap();
    let refused = |q: &Tensor, block, window, text: &str| {
        let blocks = &[BlockId(block)];
        let sequence = Sequence { first_row: 0, rows: 2, start: 0, blocks };
        let ragged = Ragged::new(vec![sequence], BlockSize::CPU);
        let found = paged_attention(q, &cache, &ragged.unwrap(), 1.0, window, &pool);
        let error = found.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let q = random(&[2, 32], DType::F32, 1);
    refused(&q, 2, None, "block 2 is in use, the cache has 2");
    refused(&q, 0, Some(0), "window 0");
    refused(&random(&[2, 33], DType::F32, 1), 0, None, "a multiple of 1 x 16");
    refused(&random(&[3, 32], DType::F32, 1), 0, None, "needs 2 rows");
    refused(&q.to_dtype(DType::BF16).unwrap(), 0, None, "the cache is F32");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// OP-1, for any cut into two steps.
    #[test]
    fn any_chunking_gives_the_same_bits(
        group in 1usize..9,
        kv_heads in 1usize..3,
        half in 1usize..20,
        len in 1usize..180,
        cut in 0usize..180,
        window in prop::option::of(1usize..100),
        dtype in prop::sample::select(DTYPES.to_vec()),
        isa in prop::sample::select(Isa::available()),
        count in 1usize..4,
    ) {
        let layer = Layer { heads: group * kv_heads, kv_heads, head_dim: 2 * half, window, dtype };
        let (tokens, other) = (layer.tokens(len, 0, 6), layer.tokens(30, 64, 7));
        let whole = layer.step(&layer.cache(128), &[(&tokens, 0..len)], &threads(1, isa));
        let (cache, pool, cut) = (layer.cache(128), threads(count, isa), cut % (len + 1));
        let mut parts = Vec::new();
        for range in [0..cut, cut..len] {
            let rows = range.len();
            if rows > 0 {
                let step = layer.step(&cache, &[(&tokens, range), (&other, 0..30)], &pool);
                parts.extend(bits(&step.narrow(0, 0, rows).unwrap()));
            }
        }
        prop_assert_eq!(bits(&whole), parts);
    }
}
