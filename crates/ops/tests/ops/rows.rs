//! Ops that work row by row or element by element.

use candle_core::{DType, Tensor};
use playhouse_ops::{Isa, add, embedding, rms_norm, silu_mul};

use crate::operands::{DTYPES, assert_close, bits, isas, matrix, random, tensor, threads, values};
use crate::reference;

#[test]
fn rms_norm_agrees_with_f64_on_any_leading_shape() {
    for dtype in DTYPES {
        for dims in [&[1, 1][..], &[3, 15], &[5, 64], &[2, 100], &[7, 3, 20], &[40, 896]] {
            let x = random(dims, dtype, 1);
            let weight = random(&dims[dims.len() - 1..], dtype, 2);
            let (rows, factors) = (matrix(&x), matrix(&weight));
            let expected: Vec<f64> = (0..rows.rows)
                .flat_map(|row| reference::rms_norm(rows.row(row), &factors.data, 1e-6, dtype))
                .collect();
            for isa in isas() {
                let found = rms_norm(&x, &weight, 1e-6, &threads(2, isa)).unwrap();
                assert_eq!(found.dims(), dims);
                // Roundings to the type, each of which the last bit of an f32 may tip over.
                let noise = |i: usize| 3.0 * reference::epsilon(dtype) * expected[i].abs() + 1e-12;
                let what = format!("{dtype:?} {dims:?} {isa}");
                assert_close(&values(&found), &expected, noise, &what);
            }
        }
    }
}

#[test]
fn silu_mul_agrees_with_f64_in_the_tails_too() {
    for dtype in DTYPES {
        let gate: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.026).collect();
        let gate = tensor(gate, &[8, 1000], dtype);
        let up = random(&[8, 1000], dtype, 4);
        let expected: Vec<f64> = matrix(&gate)
            .data
            .iter()
            .zip(&matrix(&up).data)
            .map(|(&gate, &up)| reference::silu_mul(gate, up, dtype))
            .collect();
        for isa in isas() {
            let found = values(&silu_mul(&gate, &up, &threads(2, isa)).unwrap());
            // Below the normal range of f16 its spacing is 2^-24.
            let smallest = if dtype == DType::F16 { 6e-8 } else { 1e-36 };
            let noise = |i: usize| 2.0 * reference::epsilon(dtype) * expected[i].abs() + smallest;
            assert_close(&found, &expected, noise, &format!("{dtype:?} {isa}"));
        }
    }
}

#[test]
fn add_rounds_once() {
    for dtype in DTYPES {
        let (x, y) = (random(&[9, 77], dtype, 5), random(&[9, 77], dtype, 6));
        let expected = bits(&(&x + &y).unwrap());
        for isa in isas() {
            assert_eq!(bits(&add(&x, &y, &threads(2, isa)).unwrap()), expected, "{dtype:?} {isa}");
        }
    }
}

#[test]
fn embedding_gathers_rows() {
    for dtype in DTYPES {
        let table = random(&[11, 6], dtype, 7);
        let rows = embedding(&table, &[10, 0, 3, 3], 0..11, 11).unwrap();
        let expected = [10, 0, 3, 3].map(|row| table.narrow(0, row, 1).unwrap());
        assert_eq!(bits(&rows), bits(&Tensor::cat(&expected, 0).unwrap()));
        assert_eq!(embedding(&table, &[], 0..11, 11).unwrap().dims(), [0, 6]);
        let error = embedding(&table, &[1, 11], 0..11, 11).unwrap_err().to_string();
        assert!(error.contains("token id 11, the vocabulary has 11"), "{error}");
    }
}

/// Ranks that share a vocabulary add up to the whole.
#[test]
fn embedding_leaves_rows_of_other_ranks_zero() {
    for dtype in DTYPES {
        let table = random(&[11, 6], dtype, 7);
        let ids = [10, 0, 3, 3, 7];
        let whole = embedding(&table, &ids, 0..11, 11).unwrap();
        let part = |held: std::ops::Range<usize>| {
            let rows = table.narrow(0, held.start, held.len()).unwrap().contiguous().unwrap();
            embedding(&rows, &ids, held, 11).unwrap()
        };
        let (low, high) = (part(0..4), part(4..11));
        assert_eq!(bits(&low.add(&high).unwrap()), bits(&whole));
        assert!(embedding(&table, &ids, 0..10, 11).is_err(), "the table has more rows");
    }
}

/// OP-1 and OP-2: a row alone, on any number of threads, and beside a row of NaN.
#[test]
fn a_row_depends_on_itself_alone() {
    type Op = fn(&Tensor, &Tensor, &playhouse_ops::Context) -> Tensor;
    let norm: Op = |x, y, threads| {
        let weight = y.narrow(0, 0, 1).unwrap().flatten_all().unwrap();
        rms_norm(x, &weight, 1e-5, threads).unwrap()
    };
    let ops: [Op; 3] =
        [norm, |x, y, t| add(x, y, t).unwrap(), |x, y, t| silu_mul(x, y, t).unwrap()];
    const WIDTH: usize = 1235;
    for dtype in DTYPES {
        let mut x = values(&random(&[40, WIDTH], dtype, 8));
        let y = random(&[1, WIDTH], dtype, 9).repeat((40, 1)).unwrap();
        let clean = tensor(x.clone(), &[40, WIDTH], dtype);
        x[13 * WIDTH + 7] = f32::NAN;
        let poisoned = tensor(x, &[40, WIDTH], dtype);
        for (op, isa) in ops.iter().flat_map(|op| isas().into_iter().map(move |isa| (op, isa))) {
            let whole = bits(&op(&clean, &y, &threads(1, isa)));
            let pool = threads(3, isa);
            let beside = bits(&op(&poisoned, &y, &pool));
            for row in (0..40).filter(|&row| row != 13) {
                let alone = clean.narrow(0, row, 1).unwrap();
                let alone = bits(&op(&alone, &y.narrow(0, 0, 1).unwrap(), &pool));
                assert_eq!(whole[row * WIDTH..(row + 1) * WIDTH], alone);
                assert_eq!(beside[row * WIDTH..(row + 1) * WIDTH], alone);
            }
        }
    }
}

#[test]
fn wrong_operands_are_errors() {
    let pool = threads(1, Isa::Portable);
    let x = random(&[2, 8], DType::F32, 1);
    let error = add(&x, &random(&[8, 2], DType::F32, 1), &pool).unwrap_err().to_string();
    assert!(error.contains("shapes [2, 8] and [8, 2] differ"), "{error}");
    let error = silu_mul(&x, &x.to_dtype(DType::F16).unwrap(), &pool).unwrap_err().to_string();
    assert!(error.contains("is F16, the other operands are F32"), "{error}");
    let error = rms_norm(&x, &random(&[7], DType::F32, 1), 1e-5, &pool).unwrap_err().to_string();
    assert!(error.contains("weight is [7], x needs [8]"), "{error}");
}
