//! Kernels against the limits of the machine, measured in the same run: memory bandwidth for one
//! row, multiply-add peak for many. Shapes are those of Qwen2.5-0.5B.
//!
//! Each figure is the best of many tries: other work on the machine can only slow a try down.
//!
//! `cargo bench -p playhouse-ops [-- ISA [THREADS]]`
#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use playhouse_ops::{
    Context, Isa, KvLayer, Ragged, RopeRows, Sequence, Threads, linear, paged_attention, rms_norm,
    rope_and_store, silu_mul,
};
use playhouse_types::{BlockId, BlockSize};

const HIDDEN: usize = 896;
const INNER: usize = 4864;
const VOCAB: usize = 151_936;
const HEADS: usize = 14;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
/// Time for one figure.
const BUDGET: Duration = Duration::from_millis(700);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let isa = match args.next() {
        Some(name) => Isa::available().into_iter().find(|isa| isa.to_string() == name).unwrap(),
        None => Isa::detect(),
    };
    let cores = std::thread::available_parallelism().unwrap();
    let count = args.next().map_or(cores, |count| count.parse::<NonZeroUsize>().unwrap());
    let threads = Threads::with_isa(count, isa);
    println!("instruction set {isa}, {count} threads, {cores} cores\n");

    println!("fork-join, all threads met {:>6.2} us\n", rendezvous(&threads) * 1e6);
    one_row(&threads)?;
    many_rows(&threads)?;
    attention(&threads.clone().into())?;
    small_ops(&threads.into())
}

/// Seconds of the fastest call within the budget, after one to warm up.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let (begin, mut fastest) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < BUDGET {
        let start = Instant::now();
        run();
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    fastest
}

/// As [`best`] of two calls that take turns, so that both meet the same machine.
fn best_of_both(mut first: impl FnMut(), mut second: impl FnMut()) -> (f64, f64) {
    let mut fastest = (f64::INFINITY, f64::INFINITY);
    best(|| {
        let start = Instant::now();
        first();
        let middle = Instant::now();
        second();
        fastest.0 = fastest.0.min((middle - start).as_secs_f64());
        fastest.1 = fastest.1.min(middle.elapsed().as_secs_f64());
    });
    fastest
}

/// Seconds until every thread has come to one job and all have left again.
fn rendezvous(threads: &Threads) -> f64 {
    best(|| {
        let arrived = AtomicUsize::new(0);
        threads.run(threads.count(), |_| {
            arrived.fetch_add(1, Ordering::AcqRel);
            while arrived.load(Ordering::Acquire) < threads.count() {
                std::hint::spin_loop();
            }
        });
    })
}

/// Touched memory: untouched pages would all be one page of zeros, in the cache.
fn weights(outer: usize, inner: usize) -> Result<Tensor> {
    let row: Vec<f32> = (0..inner).map(|i| (i % 17) as f32 * 0.01 - 0.08).collect();
    let row = Tensor::from_vec(row, (1, inner), &Device::Cpu)?.to_dtype(DType::BF16)?;
    row.repeat((outer, 1))?.contiguous()
}

fn one_row(threads: &Threads) -> Result<()> {
    let context = &Context::Cpu(threads.clone());
    println!("one row               GB/s, of plain reads");
    for (name, outer, inner) in [
        ("gate, up", INNER, HIDDEN),
        ("down", HIDDEN, INNER),
        ("q, o", HIDDEN, HIDDEN),
        ("k, v", 128, HIDDEN),
        ("logits", VOCAB, HIDDEN),
    ] {
        // Many copies, so that none of them stays in a cache.
        let bytes = outer * inner * 2;
        let copies = (256 * 1024 * 1024 / bytes).clamp(1, 512);
        let all = (0..copies).map(|_| weights(outer, inner)).collect::<Result<Vec<_>>>()?;
        let x = weights(1, inner)?;
        let memory: Vec<Vec<u64>> = (0..copies).map(|_| (0..bytes as u64 / 8).collect()).collect();
        let (mut reads, mut products) = (memory.iter().cycle(), all.iter().cycle());
        let (read, product) = best_of_both(
            || read_all(threads, reads.next().unwrap()),
            || _ = black_box(linear(&x, products.next().unwrap(), None, context).unwrap()),
        );
        let [read, rate] = [read, product].map(|time| bytes as f64 / time / 1e9);
        let share = 100.0 * rate / read;
        println!("{name:<10} {outer:>6} x {inner:<5} {rate:>5.1} {read:>5.1} {share:>5.0} %");
    }
    println!();
    Ok(())
}

fn many_rows(threads: &Threads) -> Result<()> {
    let context = &Context::Cpu(threads.clone());
    println!("many rows                 GFLOP/s, of f32 multiply-adds in registers");
    for (rows, outer, inner) in [
        (512, INNER, HIDDEN),
        (512, HIDDEN, INNER),
        (512, HIDDEN, HIDDEN),
        (512, 128, HIDDEN),
        (64, INNER, HIDDEN),
        (16, INNER, HIDDEN),
        (4, INNER, HIDDEN),
    ] {
        let (x, weight) = (weights(rows, inner)?, weights(outer, inner)?);
        let flops = AtomicUsize::new(0);
        let (peak, product) = best_of_both(
            || {
                flops.store(0, Ordering::Relaxed);
                threads.run(threads.count(), |_| {
                    flops.fetch_add(multiply_add(threads.isa()), Ordering::Relaxed);
                });
            },
            || _ = black_box(linear(&x, &weight, None, context).unwrap()),
        );
        let peak = flops.into_inner() as f64 / peak / 1e9;
        let rate = (2 * rows * outer * inner) as f64 / product / 1e9;
        let share = 100.0 * rate / peak;
        println!("{rows:>5} rows {outer:>6} x {inner:<6} {rate:>6.1} {peak:>6.1} {share:>4.0} %");
    }
    println!();
    Ok(())
}

fn attention(context: &Context) -> Result<()> {
    println!("attention, one layer");
    for (name, batch, rows, start) in [
        ("prefill", 1, 512, 0usize),
        ("prefill", 1, 512, 3584),
        ("decode", 1, 1, 2047),
        ("decode", 16, 1, 2047),
    ] {
        let per_sequence = (start + rows).div_ceil(16);
        let cache =
            KvLayer::zeros(batch * per_sequence, BlockSize::CPU, KV_HEADS, HEAD_DIM, DType::BF16)?;
        let tables: Vec<_> = (0..(batch * per_sequence) as u32).map(BlockId).collect();
        let sequences = tables.chunks(per_sequence).enumerate().map(|(index, blocks)| Sequence {
            first_row: index * rows,
            rows,
            start,
            blocks,
        });
        let ragged = Ragged::new(sequences.collect(), BlockSize::CPU)?;
        let q = weights(batch * rows, HEADS * HEAD_DIM)?;
        let time = best(|| {
            _ = black_box(paged_attention(&q, &cache, &ragged, 0.125, None, context).unwrap());
        });
        let keys: usize = (0..rows).map(|row| start + row + 1).sum();
        let flops = (4 * batch * keys * HEADS * HEAD_DIM) as f64;
        let bytes = (4 * batch * (start + rows) * KV_HEADS * HEAD_DIM) as f64;
        println!(
            "{name:<8} {batch:>2} x {rows:<4} after {start:<5} {:>8.0} us {:>7.1} GFLOP/s {:>6.1} GB/s",
            time * 1e6,
            flops / time / 1e9,
            bytes / time / 1e9
        );
    }
    println!();
    Ok(())
}

fn small_ops(context: &Context) -> Result<()> {
    println!("small ops                1 row    512 rows");
    let time = |op: &dyn Fn(usize) -> f64, name: &str| {
        println!("{name:<20} {:>7.1} us {:>8.0} us", op(1) * 1e6, op(512) * 1e6);
    };
    let gain = weights(1, HIDDEN)?.flatten_all()?;
    let norm = |rows| {
        let x = weights(rows, HIDDEN).unwrap();
        best(|| _ = black_box(rms_norm(&x, &gain, 1e-6, context).unwrap()))
    };
    time(&norm, "rms_norm");
    let silu = |rows| {
        let x = weights(rows, INNER).unwrap();
        best(|| _ = black_box(silu_mul(&x, &x, context).unwrap()))
    };
    time(&silu, "silu_mul");
    let rope = |rows: usize| {
        let cache = KvLayer::zeros(32, BlockSize::CPU, KV_HEADS, HEAD_DIM, DType::BF16).unwrap();
        let blocks: Vec<_> = (0..32).map(BlockId).collect();
        let sequence = Sequence { first_row: 0, rows, start: 0, blocks: &blocks };
        let ragged = Ragged::new(vec![sequence], BlockSize::CPU).unwrap();
        let half = vec![0.5; rows * HEAD_DIM / 2];
        let rope = RopeRows { cos: half.clone(), sin: half };
        let q = weights(rows, HEADS * HEAD_DIM).unwrap();
        let kv = weights(rows, KV_HEADS * HEAD_DIM).unwrap();
        best(|| {
            let out = rope_and_store(&q, &kv, &kv, &rope, &cache, &ragged, context);
            _ = black_box(out.unwrap());
        })
    };
    time(&rope, "rope_and_store");
    Ok(())
}

/// Plain reads of all words by all threads.
fn read_all(threads: &Threads, words: &[u64]) {
    const PART: usize = 16 * 1024;
    threads.run(words.len().div_ceil(PART), |index| {
        let part = &words[index * PART..words.len().min((index + 1) * PART)];
        black_box(part.iter().fold(0u64, |sum, word| sum ^ word));
    });
}

/// Rounds of multiply-adds in registers: some hundred microseconds.
const ROUNDS: usize = 50_000;

/// Multiplies and adds without touching memory; returns how often.
#[cfg(target_arch = "x86_64")]
fn multiply_add(isa: Isa) -> usize {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn wide() {
        let (a, mut sums) = (_mm512_set1_ps(black_box(0.5)), [_mm512_setzero_ps(); 16]);
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, a, *sum);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn narrow() {
        let (a, mut sums) = (_mm256_set1_ps(black_box(0.5)), [_mm256_setzero_ps(); 12]);
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, a, *sum);
            }
        }
        black_box(sums);
    }

    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 => {
            // SAFETY: the threads exist, so the CPU has the set.
            unsafe { wide() };
            ROUNDS * 16 * 32
        }
        Isa::Avx2 => {
            // SAFETY: the threads exist, so the CPU has the set.
            unsafe { narrow() };
            ROUNDS * 12 * 16
        }
        Isa::Portable => plain(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_add(_: Isa) -> usize {
    plain()
}

fn plain() -> usize {
    let (a, mut sums) = (black_box([0.5f32; 4]), [[0.0f32; 4]; 8]);
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] += a[lane] * a[lane];
            }
        }
    }
    black_box(sums);
    ROUNDS * 8 * 8
}
