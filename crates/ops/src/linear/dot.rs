//! Few rows: lanes run along the dot products, and a tile of rows by columns stays in registers.

use std::ops::Range;

use super::{Output, Panels, Product, with_shape};
use crate::Threads;
use crate::element::{Element, STEP, SharedSlice, load_step_up_to, load_up_to};
use crate::isa::Kernel;
use crate::scratch::Line;
use crate::simd::{LANES, Simd};

/// Most columns of a chunk.
const COLUMNS: usize = 64;
/// Fewest columns of a chunk; a multiple of every tile's.
const COLUMNS_MIN: usize = 8;
/// Approximate bytes of weights in a chunk: later panels find them in the second-level cache.
const CHUNK_BYTES: usize = 256 * 1024;
/// Rows staged by one task; a multiple of every panel's height.
const ROWS_PER_TASK: usize = 48;
/// Chunks per thread, so that a delayed thread does not delay the others.
const CHUNKS_PER_THREAD: usize = 4;

/// The staging of some rows. A panel is contiguous, step by step and row by row. Tasks begin where panels
/// begin.
struct Stage<'a, E> {
    product: Product<'a, E>,
    rows: Range<usize>,
    staged: &'a SharedSlice<'a, Line>,
}

/// Some columns for all rows.
struct DotChunk<'a, E> {
    product: Product<'a, E>,
    columns: Range<usize>,
    staged: &'a [Line],
    out: &'a Output<'a, E>,
}

/// A panel within a [`DotChunk`].
struct Panel<'a, 'c, E> {
    chunk: &'c DotChunk<'a, E>,
    /// The first row in `x`.
    row: usize,
    x: &'c [Line],
}

pub(super) fn compute<E: Element>(product: Product<'_, E>, out: &Output<'_, E>, threads: &Threads) {
    let Product { rows, inner, outer, .. } = product;
    let isa = threads.isa();
    let mut staged = threads.scratch().lines(2 * inner.div_ceil(STEP) * rows);
    let shared = SharedSlice::new(&mut staged);
    threads.run_ranges(rows, ROWS_PER_TASK, |rows| {
        isa.dispatch(Stage { product, rows, staged: &shared });
    });
    let cached = CHUNK_BYTES / (inner * size_of::<E>()).max(1);
    let balanced = outer.div_ceil(CHUNKS_PER_THREAD * threads.count());
    let columns = cached.min(balanced).next_multiple_of(COLUMNS_MIN).min(COLUMNS);
    threads.run_ranges(outer, columns.max(COLUMNS_MIN), |columns| {
        isa.dispatch(DotChunk { product, columns, staged: &staged, out });
    });
}

// === impl Stage ===

impl<E: Element> Kernel for Stage<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { x, inner, .. } = self.product;
        let (row_lines, lines) = (self.product.lines::<S>(), E::lines::<S>());
        for (row, height) in Panels::new(self.rows, S::DOT_SHAPES) {
            // SAFETY: panels are disjoint, and each is in one task.
            let panel = unsafe { self.staged.part(row * row_lines..(row + height) * row_lines) };
            for r in 0..height {
                let x = &x[(row + r) * inner..(row + r + 1) * inner];
                for (step, x) in x.chunks(STEP).enumerate() {
                    let vectors = load_step_up_to(simd, x);
                    let to = &mut panel[(step * height + r) * lines..][..lines];
                    for (to, vector) in to.iter_mut().zip(vectors) {
                        // SAFETY: a line is one vector.
                        unsafe { simd.store_f32(vector, to.0.as_mut_ptr()) };
                    }
                }
            }
        }
    }
}

// === impl DotChunk ===

impl<E: Element> Kernel for DotChunk<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let row_lines = self.product.lines::<S>();
        for (row, height) in Panels::new(0..self.product.rows, S::DOT_SHAPES) {
            let x = &self.staged[row * row_lines..(row + height) * row_lines];
            let panel = Panel { chunk: &self, row, x };
            with_shape!(S::DOT_SHAPES, height, M, N => panel.compute::<S, M, N>(simd),
                (6, 4) (4, 4) (2, 4) (2, 2) (1, 4) (1, 2) (1, 1));
        }
    }
}

// === impl Panel ===

impl<E: Element> Panel<'_, '_, E> {
    /// Computes all columns of the chunk for the `M` rows of this panel, in tiles of `N` columns.
    #[inline(always)]
    fn compute<S: Simd, const M: usize, const N: usize>(&self, simd: S) {
        let columns = self.chunk.columns.clone();
        let mut sums = [[0.0f32; COLUMNS]; M];
        // The first panel finds the weights in memory, later ones in the second-level cache.
        let mut column = 0;
        while column + N <= columns.len() {
            if self.row == 0 {
                self.tile::<S, M, N, true>(simd, column, &mut sums);
            } else {
                self.tile::<S, M, N, false>(simd, column, &mut sums);
            }
            column += N;
        }
        while column < columns.len() {
            self.tile::<S, M, 1, false>(simd, column, &mut sums);
            column += 1;
        }
        for m in 0..M {
            for (i, sums) in sums[m].chunks_exact(LANES).enumerate() {
                let start = columns.start + i * LANES;
                if start < columns.end {
                    let range = start..columns.end.min(start + LANES);
                    let sums = load_up_to(simd, sums);
                    let DotChunk { product, out, .. } = self.chunk;
                    // SAFETY: a task has its own columns.
                    unsafe { product.finish(simd, sums, self.row + m, range, out) };
                }
            }
        }
    }

    /// Computes `M` rows by `N` columns from `column` of the chunk. With `AHEAD`, the weights of the next
    /// tile are fetched meanwhile.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize, const AHEAD: bool>(
        &self,
        simd: S,
        column: usize,
        sums: &mut [[f32; COLUMNS]; M],
    ) {
        let Product { weight, inner, .. } = self.chunk.product;
        let first = (self.chunk.columns.start + column) * inner;
        let weight = &weight[first..first + N * inner];
        let lines = E::lines::<S>();
        let full = inner / STEP;
        let mut acc = [[simd.splat(0.0); N]; M];
        assert!(self.x.len() == M * self.chunk.product.lines::<S>(), "the panel has {M} rows");
        let mut x = self.x.as_ptr();
        for step in 0..full {
            let mut right = [[simd.splat(0.0); 2]; N];
            for n in 0..N {
                let from = weight.as_ptr().wrapping_add(n * inner + step * STEP);
                if AHEAD {
                    simd.prefetch_l2(from.wrapping_add(N * inner).cast());
                }
                // SAFETY: `step` is a full step of column `n`.
                right[n] = unsafe { E::load_step(simd, from) };
            }
            for m in 0..M {
                for n in 0..N {
                    // SAFETY: the panel has `M` rows of `lines` for each step.
                    acc[m][n] = unsafe { E::dot_step(simd, acc[m][n], x.add(m * lines), right[n]) };
                }
            }
            // SAFETY: at most one past the panel.
            x = unsafe { x.add(M * lines) };
        }
        if full * STEP < inner {
            for n in 0..N {
                let tail = &weight[n * inner + full * STEP..(n + 1) * inner];
                let right = load_step_up_to(simd, tail);
                for m in 0..M {
                    // SAFETY: as above; this is the last step, and it is partial.
                    acc[m][n] = unsafe { E::dot_step(simd, acc[m][n], x.add(m * lines), right) };
                }
            }
        }
        let mut i = 0;
        while i + 4 <= M * N {
            let four = [
                acc[i / N][i % N],
                acc[(i + 1) / N][(i + 1) % N],
                acc[(i + 2) / N][(i + 2) % N],
                acc[(i + 3) / N][(i + 3) % N],
            ];
            let four = simd.sum4(four);
            for j in 0..4 {
                sums[(i + j) / N][column + (i + j) % N] = four[j];
            }
            i += 4;
        }
        while i < M * N {
            sums[i / N][column + i % N] = simd.sum(acc[i / N][i % N]);
            i += 1;
        }
    }
}
