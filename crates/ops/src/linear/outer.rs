//! Many rows: lanes are columns, and each step adds an outer product to a tile of registers.
//!
//! The partial sum of lane `l` is a chain over the elements that lane `l` meets in [`super::dot`],
//! in the same order; the 16 chains of an element are then added in the tree of [`Simd::sum`]. So
//! both loops give the same bits.

use std::ops::Range;

use super::{Output, Panels, Product, with_shape};
use crate::Threads;
use crate::element::{Element, STEP, SharedSlice, load_step_up_to, load_up_to, store_up_to};
use crate::isa::Kernel;
use crate::scratch::{Line, Scratch};
use crate::simd::{LANES, Simd};

/// Rows packed at once: bounds the packed copy of `x`.
const ROWS: usize = 512;
/// Rows packed by one task.
const ROWS_PER_TASK: usize = 48;
/// Columns of the widest tile.
const COLUMNS_MIN: usize = 2 * LANES;
/// Bytes of packed weights that stay in the second-level cache, beside the rows that pass through.
const CHUNK_BYTES: usize = 480 * 1024;
/// Columns of a chunk when the weights of fewer columns would not stay in that cache either.
const COLUMNS_UNCACHED: usize = 64;
/// Chunks per thread, so that a delayed thread does not delay the others.
const CHUNKS_PER_THREAD: usize = 4;

/// The lanes in an order in which the tree needs only its open branches.
const TREE_ORDER: [usize; LANES] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];
/// Lines between a load and the prefetch of what a later one needs: about the latency of the
/// second-level cache under load, which the hardware does not hide on its own.
const AHEAD: usize = 8;
/// Most branches that are open between two lanes.
const TREE_DEPTH: usize = LANES.ilog2() as usize;

/// The packing of rows of `x` from `first` on. Tasks begin where panels begin.
struct PackRows<'a, E> {
    product: Product<'a, E>,
    first: usize,
    rows: Range<usize>,
    packed: &'a SharedSlice<'a, f32>,
}

/// Some columns for all packed rows.
struct OuterChunk<'a, E> {
    product: Product<'a, E>,
    rows: Range<usize>,
    columns: Range<usize>,
    packed: &'a [f32],
    out: &'a Output<'a, E>,
    scratch: &'a Scratch,
}

pub(super) fn compute<E: Element>(product: Product<'_, E>, out: &Output<'_, E>, threads: &Threads) {
    let Product { rows, inner, outer, .. } = product;
    let isa = threads.isa();
    let row_floats = 2 * inner.div_ceil(STEP) * LANES;
    let mut lines = threads.scratch().lines(row_floats / LANES * rows.min(ROWS));
    let columns = chunk_columns(row_floats, outer, threads.count());
    for first in (0..rows).step_by(ROWS) {
        let rows = first..rows.min(first + ROWS);
        let packed = SharedSlice::new(lines.floats_mut());
        threads.run_ranges(rows.len(), ROWS_PER_TASK, |part| {
            let rows = first + part.start..first + part.end;
            isa.dispatch(PackRows { product, first, rows, packed: &packed });
        });
        let packed = lines.floats();
        threads.run_ranges(outer, columns, |columns| {
            let (rows, scratch) = (rows.clone(), threads.scratch());
            isa.dispatch(OuterChunk { product, rows, columns, packed, out, scratch });
        });
    }
}

fn chunk_columns(row_floats: usize, outer: usize, threads: usize) -> usize {
    let cached = CHUNK_BYTES / (row_floats * size_of::<f32>()).max(1);
    let balanced = outer.div_ceil(CHUNKS_PER_THREAD * threads);
    (cached.max(COLUMNS_UNCACHED).min(balanced) / COLUMNS_MIN).max(1) * COLUMNS_MIN
}

// === impl PackRows ===

impl<E: Element> Kernel for PackRows<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { x, inner, .. } = self.product;
        let row_floats = self.product.lines::<S>() * LANES;
        for (row, height) in Panels::new(self.rows.clone(), S::OUTER_SHAPES) {
            let start = (row - self.first) * row_floats;
            // SAFETY: panels are disjoint, and each is in one task.
            let to = unsafe { self.packed.part(start..start + height * row_floats) };
            let rows = &x[row * inner..(row + height) * inner];
            with_shape!(S::OUTER_SHAPES, height, M, _N => pack::<S, E, M>(simd, rows, inner, to),
                (12, 2) (8, 2) (6, 1) (4, 2) (4, 1) (2, 2) (2, 1) (1, 2) (1, 1));
        }
    }
}

// === impl OuterChunk ===

impl<E: Element> Kernel for OuterChunk<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let lines = self.product.lines::<S>();
        let groups = self.columns.len().div_ceil(LANES);
        let mut packed = self.scratch.lines(groups * LANES * lines);
        let weights = &mut packed.floats_mut()[..groups * LANES * lines * LANES];
        self.pack_columns(simd, weights);
        // Weights that fit the cache pass by each panel whole. Of others only the part of one
        // lane does, and meets all panels while it is there.
        let cached = size_of_val(weights) <= CHUNK_BYTES;
        let together = if cached { S::OUTER_SHAPES[0].0 } else { self.rows.len() };
        let open_lines = groups * TREE_DEPTH;
        let mut open = self.scratch.lines(together * open_lines);
        for start in self.rows.clone().step_by(together) {
            let rows = start..self.rows.end.min(start + together);
            for places in (0..LANES).step_by(if cached { LANES } else { 1 }) {
                let places = places..if cached { LANES } else { places + 1 };
                for (row, height) in Panels::new(rows.clone(), S::OUTER_SHAPES) {
                    let x = (row - self.rows.start) * lines * LANES;
                    let x = &self.packed[x..x + height * lines * LANES];
                    let open = &mut open[(row - start) * open_lines..][..height * open_lines];
                    let places = places.clone();
                    with_shape!(S::OUTER_SHAPES, height, M, N => {
                        self.panel::<S, M, N>(simd, places, row, (x, weights), open);
                    }, (12, 2) (8, 2) (6, 1) (4, 2) (4, 1) (2, 2) (2, 1) (1, 2) (1, 1));
                }
            }
        }
    }
}

impl<E: Element> OuterChunk<'_, E> {
    #[inline(always)]
    fn pack_columns<S: Simd>(&self, simd: S, packed: &mut [f32]) {
        let Product { weight, inner, .. } = self.product;
        let group_floats = LANES * self.product.lines::<S>() * LANES;
        for (group, to) in packed.chunks_exact_mut(group_floats.max(1)).enumerate() {
            let first = self.columns.start + group * LANES;
            let last = self.columns.end.min(first + LANES);
            let columns = &weight[first * inner..last * inner];
            if last - first == LANES {
                pack::<S, E, LANES>(simd, columns, inner, to);
            } else {
                let mut padded = vec![E::ZERO; LANES * inner];
                padded[..columns.len()].copy_from_slice(columns);
                pack::<S, E, LANES>(simd, &padded, inner, to);
            }
        }
    }

    /// Computes some lanes of all columns for the `M` rows of a panel, in tiles of `N` groups of 16 columns;
    /// after the last lane the tiles are finished.
    #[inline(always)]
    fn panel<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        places: Range<usize>,
        row: usize,
        packed: (&[f32], &[f32]),
        open: &mut [Line],
    ) {
        let groups = self.columns.len().div_ceil(LANES);
        let mut group = 0;
        while group + N <= groups {
            for place in places.clone() {
                self.tile::<S, M, N>(simd, place, row, group, packed, open);
            }
            group += N;
        }
        while group < groups {
            for place in places.clone() {
                self.tile::<S, M, 1>(simd, place, row, group, packed, open);
            }
            group += 1;
        }
    }

    /// Computes one lane of `M` rows by `N` groups. The lane's sums join the open branches of the tree.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &self,
        simd: S,
        place: usize,
        row: usize,
        group: usize,
        (x, weights): (&[f32], &[f32]),
        open: &mut [Line],
    ) {
        let lines = self.product.lines::<S>();
        let x = &x[place * lines * M..(place + 1) * lines * M];
        let weights = &weights[group * LANES * lines * LANES..(group + N) * LANES * lines * LANES];
        let sums = chains::<S, E, M, N>(simd, x, &weights[place * lines * LANES..], lines);
        let open = &mut open[group * TREE_DEPTH * M..(group + N) * TREE_DEPTH * M];
        let depth = join(simd, place, sums, open);
        if place + 1 < LANES {
            return;
        }
        debug_assert_eq!(depth, 0, "the last lane closes all branches");
        for (index, sums) in open[..M * N].iter().enumerate() {
            let (m, n) = (index / N, index % N);
            let start = self.columns.start + (group + n) * LANES;
            let columns = start..self.columns.end.min(start + LANES);
            let sums = load_up_to(simd, &sums.0);
            // SAFETY: a task has its own columns.
            unsafe { self.product.finish(simd, sums, row + m, columns, self.out) };
        }
    }
}

/// Adds the sums of a lane to the branches of the tree that it completes, and leaves them as an
/// open branch, at the depth returned. Branches close as a binary counter carries.
#[inline(always)]
fn join<S: Simd, const M: usize, const N: usize>(
    simd: S,
    place: usize,
    mut sums: [[S::F; N]; M],
    open: &mut [Line],
) -> usize {
    assert!(open.len() == TREE_DEPTH * M * N, "{M} by {N} vectors for each depth");
    let mut depth = place.count_ones() as usize;
    for _ in 0..place.trailing_ones() {
        depth -= 1;
        let branch = open[depth * M * N..(depth + 1) * M * N].as_ptr();
        for m in 0..M {
            for n in 0..N {
                // SAFETY: the branch has `M * N` lines; a line is one vector.
                let branch = unsafe { simd.load_f32(branch.add(m * N + n).cast()) };
                sums[m][n] = simd.add(branch, sums[m][n]);
            }
        }
    }
    let branch = open[depth * M * N..(depth + 1) * M * N].as_mut_ptr();
    for m in 0..M {
        for n in 0..N {
            // SAFETY: the branch has `M * N` lines; a line is one vector.
            unsafe { simd.store_f32(sums[m][n], branch.add(m * N + n).cast()) };
        }
    }
    depth
}

/// Computes the chains of one lane for `M` rows by `N` groups of 16 columns. `x` and `weights` begin at the
/// lane, in the first group.
#[inline(always)]
fn chains<S: Simd, E: Element, const M: usize, const N: usize>(
    simd: S,
    x: &[f32],
    weights: &[f32],
    lines: usize,
) -> [[S::F; N]; M] {
    let group_floats = LANES * lines * LANES;
    assert!(x.len() >= lines * M, "{M} rows");
    assert!(weights.len() >= (N - 1) * group_floats + lines * LANES, "{N} groups");
    let (mut left, mut right) = (x.as_ptr(), weights.as_ptr());
    let mut sums = [[simd.splat(0.0); N]; M];
    for _ in 0..lines {
        let mut columns = [simd.splat(0.0); N];
        for n in 0..N {
            let from = right.wrapping_add(n * group_floats);
            simd.prefetch(from.wrapping_add(AHEAD * LANES));
            // SAFETY: inside of group `n`, by the assertion above.
            columns[n] = unsafe { simd.load_f32(from) };
        }
        simd.prefetch(left.wrapping_add(AHEAD * M));
        for m in 0..M {
            // SAFETY: inside of the panel, by the assertion above.
            let row = simd.splat(unsafe { *left.add(m) });
            for n in 0..N {
                sums[m][n] = E::dot_line(simd, sums[m][n], row, columns[n]);
            }
        }
        (left, right) = (left.wrapping_add(M), right.wrapping_add(LANES));
    }
    sums
}

/// Packs `H` rows of `inner` elements: for each of the 16 lanes in [`TREE_ORDER`], for each vector
/// of a row, the lane of `H` rows side by side. So a tile reads from one end to the other.
#[inline(always)]
fn pack<S: Simd, E: Element, const H: usize>(simd: S, rows: &[E], inner: usize, to: &mut [f32]) {
    let (lines, full) = (E::lines::<S>(), inner / STEP);
    let row_lines = inner.div_ceil(STEP) * lines;
    assert!(rows.len() == H * inner && to.len() == H * row_lines * LANES, "{H} rows");
    let mut vectors = [[simd.splat(0.0); LANES]; 2];
    for step in 0..full {
        for r in 0..H {
            // SAFETY: a full step of row `r`.
            let step = unsafe { E::load_step(simd, rows.as_ptr().add(r * inner + step * STEP)) };
            (vectors[0][r], vectors[1][r]) = (step[0], step[1]);
        }
        pack_step::<S, H>(simd, &vectors[..lines], step * lines, row_lines, to);
    }
    if full * STEP < inner {
        for r in 0..H {
            let tail = &rows[r * inner + full * STEP..(r + 1) * inner];
            let step = load_step_up_to(simd, tail);
            (vectors[0][r], vectors[1][r]) = (step[0], step[1]);
        }
        pack_step::<S, H>(simd, &vectors[..lines], full * lines, row_lines, to);
    }
}

/// The lines of one step, each a vector for every row.
#[inline(always)]
fn pack_step<S: Simd, const H: usize>(
    simd: S,
    step: &[[S::F; LANES]],
    first_line: usize,
    row_lines: usize,
    to: &mut [f32],
) {
    for (line, vectors) in step.iter().enumerate() {
        let lanes = simd.transpose(*vectors);
        for place in 0..LANES {
            let start = (place * row_lines + first_line + line) * H;
            store_up_to(simd, lanes[TREE_ORDER[place]], &mut to[start..start + H]);
        }
    }
}
