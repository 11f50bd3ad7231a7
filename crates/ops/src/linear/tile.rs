//! The register tiles of a matrix product, and the loops over them.

use std::ops::Range;

use super::{COLUMNS, Product};
use crate::element::{Element, STEP, Shared, load_step_up_to, load_up_to, store_up_to};
use crate::isa::Kernel;
use crate::scratch::{Line, Scratch};
use crate::simd::{LANES, Shapes, Simd};

/// Bytes of a staged panel that pass by before the next columns: they stay in the first-level
/// cache, beside the weights.
const PANEL_BYTES: usize = 24 * 1024;

/// Writes rows of `x` in staged form. The staged rows begin with row `first` of `x`.
///
/// Rows form panels of the heights of [`Shapes`], tallest first; a panel lies together, step by
/// step and row by row.
pub(super) struct Stage<'a, E> {
    pub(super) product: Product<'a, E>,
    pub(super) first: usize,
    /// Begins a multiple of the tallest height after `first`.
    pub(super) rows: Range<usize>,
    pub(super) staged: &'a Shared<'a, Line>,
}

/// Computes some columns for all staged rows.
pub(super) struct Chunk<'a, E, O> {
    pub(super) product: Product<'a, E>,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) staged: &'a [Line],
    pub(super) out: &'a Shared<'a, O>,
    pub(super) scratch: &'a Scratch,
}

/// A panel within a [`Chunk`].
struct Panel<'a, 'c, E, O> {
    chunk: &'c Chunk<'a, E, O>,
    /// The first row in `x`.
    row: usize,
    /// The panel in staged form.
    x: &'c [Line],
    /// Partial sums between blocks of steps, a line per element.
    partial: &'c Shared<'c, Line>,
}

/// Cuts rows into panels: `(first row, height)`.
struct Panels {
    next: usize,
    end: usize,
    shapes: Shapes,
}

// === impl Stage ===

impl<E: Element> Kernel for Stage<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { x, inner, .. } = self.product;
        let (steps, lines) = (inner.div_ceil(STEP), E::lines::<S>());
        for (row, height) in Panels::new::<S>(self.rows.clone()) {
            let start = (row - self.first) * steps * lines;
            // SAFETY: panels are disjoint, and each is staged by one task.
            let panel = unsafe { self.staged.part(start..start + height * steps * lines) };
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

// === impl Chunk ===

/// Calls `$panel.compute::<S, M, N>` for the shape of `$height` rows, among those listed.
macro_rules! with_shape {
    ($S:ident, $simd:ident, $panel:ident, $height:ident: $(($m:literal, $n:literal))*) => {
        match $height {
            $(_ if const { offers($S::SHAPES, $m, $n) } && $height == $m => {
                $panel.compute::<$S, $m, $n>($simd)
            })*
            _ => unreachable!("a shape of {} rows is listed", $height),
        }
    };
}

impl<E: Element, O: Element> Kernel for Chunk<'_, E, O> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let step_lines = self.product.inner.div_ceil(STEP) * E::lines::<S>();
        let mut partial = self.scratch.lines(S::SHAPES[0].0 * COLUMNS);
        let partial = Shared::new(&mut partial);
        for (row, height) in Panels::new::<S>(self.rows.clone()) {
            let start = (row - self.rows.start) * step_lines;
            let x = &self.staged[start..start + height * step_lines];
            let panel = Panel { chunk: &self, row, x, partial: &partial };
            with_shape!(S, simd, panel, height:
                (12, 2) (8, 2) (6, 1) (4, 4) (2, 4) (2, 2) (2, 1) (1, 4) (1, 2));
        }
    }
}

const fn offers(shapes: Shapes, rows: usize, columns: usize) -> bool {
    let mut i = 0;
    while i < shapes.len() {
        if shapes[i].0 == rows && shapes[i].1 == columns {
            return true;
        }
        i += 1;
    }
    false
}

// === impl Panel ===

impl<E: Element, O: Element> Panel<'_, '_, E, O> {
    /// All columns of the chunk for the `M` rows of this panel, in tiles of `N` columns.
    #[inline(always)]
    fn compute<S: Simd, const M: usize, const N: usize>(&self, simd: S) {
        let columns = self.chunk.columns.len();
        let steps = self.chunk.product.inner.div_ceil(STEP);
        let lines = E::lines::<S>();
        let blocks = steps.div_ceil(PANEL_BYTES / (M * lines * size_of::<Line>())).max(1);
        let block = steps.div_ceil(blocks);
        let mut sums = [[0.0f32; COLUMNS]; M];
        for index in 0..blocks {
            let steps = (index * block).min(steps)..((index + 1) * block).min(steps);
            let place = (index > 0, index + 1 < blocks);
            let mut column = 0;
            while column + N <= columns {
                self.tile::<S, M, N>(simd, column, steps.clone(), place, &mut sums);
                column += N;
            }
            while column < columns {
                self.tile::<S, M, 1>(simd, column, steps.clone(), place, &mut sums);
                column += 1;
            }
        }
        self.finish(simd, &sums);
    }

    /// Adds the products of `steps` for `M` rows by `N` columns from `column` of the chunk.
    /// `place` says whether blocks of steps come before and after: partial sums are then taken
    /// from and left in memory, lane by lane, which no bit of the result can tell.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        column: usize,
        steps: Range<usize>,
        place: (bool, bool),
        sums: &mut [[f32; COLUMNS]; M],
    ) {
        // SAFETY: a column's partial sums are used by this panel alone, one tile at a time.
        let partial = unsafe { self.partial.part(column * M..(column + N) * M) };
        let mut acc = [[simd.splat(0.0); N]; M];
        if place.0 {
            for m in 0..M {
                for n in 0..N {
                    // SAFETY: a line is one vector.
                    acc[m][n] = unsafe { simd.load_f32(partial[m * N + n].0.as_ptr()) };
                }
            }
        }
        self.accumulate(simd, column, steps, &mut acc);
        if place.1 {
            for m in 0..M {
                for n in 0..N {
                    // SAFETY: a line is one vector.
                    unsafe { simd.store_f32(acc[m][n], partial[m * N + n].0.as_mut_ptr()) };
                }
            }
            return;
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

    #[inline(always)]
    fn accumulate<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        column: usize,
        steps: Range<usize>,
        acc: &mut [[S::F; N]; M],
    ) {
        let Product { weight, inner, .. } = self.chunk.product;
        let first = (self.chunk.columns.start + column) * inner;
        let weight = &weight[first..first + N * inner];
        let lines = E::lines::<S>();
        let full = steps.end.min(inner / STEP);
        let mut sums = *acc;
        let mut x = self.x[steps.start * M * lines..steps.end * M * lines].as_ptr();
        for step in steps.start..full {
            let mut right = [[simd.splat(0.0); 2]; N];
            for n in 0..N {
                // SAFETY: `step` is a full step of column `n`.
                right[n] =
                    unsafe { E::load_step(simd, weight.as_ptr().add(n * inner + step * STEP)) };
            }
            for m in 0..M {
                for n in 0..N {
                    // SAFETY: the slice of the panel has `M` rows of `lines` for each step.
                    sums[m][n] =
                        unsafe { E::dot_step(simd, sums[m][n], x.add(m * lines), right[n]) };
                }
            }
            // SAFETY: at most one past the slice.
            x = unsafe { x.add(M * lines) };
        }
        if full < steps.end {
            for n in 0..N {
                let right =
                    load_step_up_to(simd, &weight[n * inner + full * STEP..(n + 1) * inner]);
                for m in 0..M {
                    // SAFETY: as above; this is the last step, and it is partial.
                    sums[m][n] = unsafe { E::dot_step(simd, sums[m][n], x.add(m * lines), right) };
                }
            }
        }
        *acc = sums;
    }

    /// Adds the bias, rounds and writes the rows of the panel.
    #[inline(always)]
    fn finish<S: Simd, const M: usize>(&self, simd: S, sums: &[[f32; COLUMNS]; M]) {
        let Product { bias, outer, .. } = self.chunk.product;
        let columns = self.chunk.columns.clone();
        for (m, sums) in sums.iter().enumerate() {
            let start = (self.row + m) * outer;
            // SAFETY: a task writes its own columns, and each panel its own rows.
            let out = unsafe { self.chunk.out.part(start + columns.start..start + columns.end) };
            for (i, out) in out.chunks_mut(LANES).enumerate() {
                let part = i * LANES;
                let mut value = load_up_to(simd, &sums[part..part + LANES]);
                if let Some(bias) = bias {
                    let bias = &bias[columns.start + part..][..out.len()];
                    value = simd.add(value, load_up_to(simd, bias));
                }
                store_up_to(simd, value, out);
            }
        }
    }
}

// === impl Panels ===

impl Panels {
    fn new<S: Simd>(rows: Range<usize>) -> Self {
        Self { next: rows.start, end: rows.end, shapes: S::SHAPES }
    }
}

impl Iterator for Panels {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let left = self.end - self.next;
        let height = self.shapes.iter().map(|shape| shape.0).find(|&height| height <= left)?;
        let row = self.next;
        self.next += height;
        Some((row, height))
    }
}
