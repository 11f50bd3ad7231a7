use candle_core::{DType, Tensor};
use playhouse_ops::{Isa, linear, linear_f32};
use proptest::prelude::*;

use crate::operands::{DTYPES, assert_close, bits, isas, matrix, random, tensor, threads, values};
use crate::reference;

/// Rows, inner, outer: remainders of every tile height and width, tails, few and many rows,
/// weights that fit the cache and that do not.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 64, 7),
    (2, 33, 5),
    (3, 31, 130),
    (7, 96, 17),
    (11, 257, 9),
    (13, 70, 66),
    (25, 1000, 3),
    (5, 7000, 4),
    (61, 95, 66),
    (251, 40, 21),
    (50, 9000, 35),
];

#[test]
fn products_agree_with_f64() {
    for dtype in DTYPES {
        for (case, (rows, inner, outer)) in SHAPES.into_iter().enumerate() {
            let x = random(&[rows, inner], dtype, 3 * case as u64 + 1);
            let weight = random(&[outer, inner], dtype, 3 * case as u64 + 2);
            let bias = random(&[outer], dtype, 3 * case as u64 + 3);
            for bias in [None, Some(&bias)] {
                let addend = bias.map(|bias| matrix(bias).data);
                let (sums, sizes) =
                    reference::linear(&matrix(&x), &matrix(&weight), addend.as_deref());
                for isa in isas() {
                    let threads = threads(2, isa);
                    let what = format!("{dtype:?} {rows}x{inner}x{outer} {isa}");
                    let exact = linear_f32(&x, &weight, bias, &threads).unwrap();
                    assert_eq!(exact.dtype(), DType::F32);
                    assert_eq!(exact.dims(), [rows, outer]);
                    let noise = |i: usize| 4e-7 * sizes.data[i];
                    assert_close(&values(&exact), &sums.data, noise, &what);
                    let rounded = linear(&x, &weight, bias, &threads).unwrap();
                    assert_eq!(rounded.dtype(), dtype);
                    assert_eq!(
                        bits(&rounded),
                        bits(&exact.to_dtype(dtype).unwrap()),
                        "rounded once from f32: {what}"
                    );
                }
            }
        }
    }
}

/// OP-1.
#[test]
fn a_row_has_the_same_bits_in_every_batch_and_on_any_number_of_threads() {
    for dtype in DTYPES {
        for (inner, outer) in [(95, 70), (4200, 40)] {
            let x = random(&[61, inner], dtype, 5);
            let weight = random(&[outer, inner], dtype, 6);
            for isa in isas() {
                let whole = bits(&linear(&x, &weight, None, &threads(1, isa)).unwrap());
                for count in [2, 3] {
                    let pool = threads(count, isa);
                    assert_eq!(whole, bits(&linear(&x, &weight, None, &pool).unwrap()));
                    for row in 0..61 {
                        let alone = x.narrow(0, row, 1).unwrap();
                        let alone = bits(&linear(&alone, &weight, None, &pool).unwrap());
                        assert_eq!(whole[row * outer..(row + 1) * outer], alone, "row {row} {isa}");
                    }
                }
            }
        }
    }
}

/// SIMD-1: the sets with a fused multiply-add agree.
#[test]
fn avx2_and_avx512_give_the_same_bits() {
    let isas = isas();
    if !isas.contains(&Isa::Avx512) {
        return;
    }
    for dtype in DTYPES {
        for (rows, inner, outer) in SHAPES {
            let x = random(&[rows, inner], dtype, 8);
            let weight = random(&[outer, inner], dtype, 9);
            let [narrow, wide] = [Isa::Avx2, Isa::Avx512]
                .map(|isa| bits(&linear_f32(&x, &weight, None, &threads(1, isa)).unwrap()));
            assert_eq!(narrow, wide, "{dtype:?} {rows}x{inner}x{outer}");
        }
    }
}

/// OP-2.
#[test]
fn non_finite_values_stay_in_their_row() {
    for dtype in DTYPES {
        let weight = random(&[19, 77], dtype, 11);
        for (rows, poison) in
            [(14, f32::NAN), (14, f32::INFINITY), (50, f32::NAN), (50, f32::NEG_INFINITY)]
        {
            let clean = values(&random(&[rows, 77], dtype, 12));
            let mut poisoned = clean.clone();
            poisoned[6 * 77 + 76] = poison;
            for isa in isas() {
                let run = |x: &[f32]| {
                    let x = tensor(x.to_vec(), &[rows, 77], dtype);
                    bits(&linear(&x, &weight, None, &threads(2, isa)).unwrap())
                };
                let (clean, poisoned) = (run(&clean), run(&poisoned));
                for row in (0..rows).filter(|&row| row != 6) {
                    let span = row * 19..(row + 1) * 19;
                    assert_eq!(clean[span.clone()], poisoned[span], "row {row} {isa}");
                }
                let found = f32::from_bits(poisoned[6 * 19]);
                assert!(!found.is_finite(), "the poisoned row shows it, found {found}");
            }
        }
    }
}

#[test]
fn wrong_operands_are_errors() {
    let pool = threads(1, Isa::Portable);
    let x = random(&[2, 8], DType::F32, 1);
    let weight = random(&[3, 8], DType::F32, 1);
    let refused = |x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, text: &str| {
        let error = linear(x, weight, bias, &pool).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(&x, &random(&[3, 9], DType::F32, 1), None, "second dimensions differ");
    refused(&x, &weight, Some(&random(&[2], DType::F32, 1)), "bias is [2], weight needs [3]");
    refused(&x, &weight.to_dtype(DType::BF16).unwrap(), None, "linear: weight is BF16");
    refused(&random(&[8, 2], DType::F32, 1).t().unwrap(), &weight, None, "make it contiguous");
    refused(
        &x.to_dtype(DType::F64).unwrap(),
        &weight.to_dtype(DType::F64).unwrap(),
        None,
        "use bf16, f16 or f32",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// OP-1, for any split of any batch: also into parts that take another loop than the whole.
    #[test]
    fn any_split_of_the_rows_gives_the_same_bits(
        rows in 1usize..300,
        inner in 1usize..200,
        outer in 1usize..90,
        cut in 0usize..300,
        dtype in prop::sample::select(DTYPES.to_vec()),
        isa in prop::sample::select(Isa::available()),
        count in 1usize..4,
    ) {
        let x = random(&[rows, inner], dtype, 21);
        let weight = random(&[outer, inner], dtype, 22);
        let bias = random(&[outer], dtype, 23);
        let whole = linear(&x, &weight, Some(&bias), &threads(1, isa)).unwrap();
        let cut = cut % (rows + 1);
        let pool = threads(count, isa);
        let mut parts = Vec::new();
        for (first, len) in [(0, cut), (cut, rows - cut)] {
            let part = x.narrow(0, first, len).unwrap();
            if len > 0 {
                parts.extend(bits(&linear(&part, &weight, Some(&bias), &pool).unwrap()));
            }
        }
        prop_assert_eq!(bits(&whole), parts);
    }
}
