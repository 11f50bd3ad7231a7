//! The queries of one task against their keys, span by span.

use std::ops::Range;

use super::Operands;
use crate::element::{Element, SharedSlice, load_up_to, store_up_to};
use crate::isa::Kernel;
use crate::kv::BLOCK_TOKENS;
use crate::ragged::Sequence;
use crate::scratch::{Line, Scratch};
use crate::simd::{LANES, Simd};

/// Blocks of a span. Each span takes one softmax update and one pass over the accumulated values.
const SPAN_BLOCKS: usize = 4;
/// Positions of a span.
const SPAN: usize = SPAN_BLOCKS * BLOCK_TOKENS;

/// One task: some rows of a sequence, and query heads that share a KV head.
pub(super) struct Tile<'a, E> {
    pub(super) operands: &'a Operands<'a, E>,
    pub(super) sequence: &'a Sequence<'a>,
    /// Rows, counted from the first row of the sequence.
    pub(super) rows: Range<usize>,
    pub(super) kv_head: usize,
    /// Query heads.
    pub(super) heads: Range<usize>,
    pub(super) out: &'a SharedSlice<'a, E>,
    pub(super) scratch: &'a Scratch,
}

/// Working memory of a tile. Queries are numbered row by row, then head by head.
struct State<'a> {
    /// Queries in `f32`, `width` lines each.
    q: &'a mut [Line],
    /// Weighted values so far, `width` lines each.
    sums: &'a mut [Line],
    /// Scores of the span, then the exponentials: [`SPAN_BLOCKS`] lines for each query.
    scores: &'a mut [Line],
    /// The span's keys in `f32`: for each block, a line of 16 tokens for each dimension.
    keys: &'a mut [Line],
    /// The span's values in `f32`: `width` lines for each token.
    values: &'a mut [Line],
    queries: Vec<Query>,
    head_dim: usize,
    /// Lines of one head.
    width: usize,
}

/// The online softmax of one query.
#[derive(Clone)]
struct Query {
    /// Positions that the query attends to.
    seen: Range<usize>,
    /// Positions in the current span that the query attends to, counted from the span's start.
    here: Range<usize>,
    /// The largest score so far.
    max: f32,
    /// The sum of exponentials so far.
    total: f32,
}

// === impl Tile ===

impl<E: Element> Kernel for Tile<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut memory = self.scratch.lines(self.memory());
        let mut state = self.begin(simd, &mut memory);
        // Rows ascend, and so do both ends of what they see.
        let first = state.queries[0].seen.start;
        let end = state.queries[state.queries.len() - 1].seen.end;
        for span in first / SPAN..end.div_ceil(SPAN) {
            let start = span * SPAN;
            let blocks =
                start.max(first) / BLOCK_TOKENS..end.min(start + SPAN).div_ceil(BLOCK_TOKENS);
            for query in &mut state.queries {
                let from = query.seen.start.max(start);
                let to = query.seen.end.min(start + SPAN).max(from);
                query.here = from - start..to - start;
            }
            let first_block = span * SPAN_BLOCKS;
            self.load(simd, &mut state, first_block, blocks.clone());
            state.score(simd, blocks.start - first_block..blocks.end - first_block);
            state.soften(simd, self.operands.scale);
            state.weigh(simd);
        }
        self.finish(simd, &state);
    }
}

impl<E: Element> Tile<'_, E> {
    /// Returns the lines that [`State`] takes.
    fn memory(&self) -> usize {
        let head_dim = self.operands.shape.head_dim;
        let width = head_dim.div_ceil(LANES);
        let count = self.rows.len() * self.heads.len();
        count * (2 * width + SPAN_BLOCKS) + SPAN_BLOCKS * head_dim + SPAN * width
    }

    fn head_start(&self, query: usize) -> usize {
        let row = self.sequence.first_row + self.rows.start + query / self.heads.len();
        let head = self.heads.start + query % self.heads.len();
        (row * self.operands.heads + head) * self.operands.shape.head_dim
    }

    #[inline(always)]
    fn begin<'m, S: Simd>(&self, simd: S, memory: &'m mut [Line]) -> State<'m> {
        let head_dim = self.operands.shape.head_dim;
        let width = head_dim.div_ceil(LANES);
        let count = self.rows.len() * self.heads.len();
        let (q, memory) = memory.split_at_mut(count * width);
        let (sums, memory) = memory.split_at_mut(count * width);
        let (scores, memory) = memory.split_at_mut(count * SPAN_BLOCKS);
        let (keys, memory) = memory.split_at_mut(SPAN_BLOCKS * head_dim);
        let (values, _) = memory.split_at_mut(SPAN * width);
        let queries = Vec::with_capacity(count);
        let mut state = State { q, sums, scores, keys, values, queries, head_dim, width };
        for query in 0..count {
            let end = self.sequence.start + self.rows.start + query / self.heads.len() + 1;
            let seen = end.saturating_sub(self.operands.window)..end;
            let here = 0..0;
            state.queries.push(Query { seen, here, max: f32::NEG_INFINITY, total: 0.0 });
            let start = self.head_start(query);
            let q = &self.operands.q[start..start + head_dim];
            for (i, part) in q.chunks(LANES).enumerate() {
                let (part, line) = (load_up_to(simd, part), query * width + i);
                store_line(simd, part, &mut state.q[line]);
                state.sums[line] = Line::ZERO;
            }
        }
        state
    }

    /// Widens the keys and values of `blocks` into their places in the span.
    #[inline(always)]
    fn load<S: Simd>(
        &self,
        simd: S,
        state: &mut State<'_>,
        first_block: usize,
        blocks: Range<usize>,
    ) {
        let shape = self.operands.shape;
        let head_dim = shape.head_dim;
        for index in blocks {
            let start = shape.head_start(self.sequence.blocks[index].0, self.kv_head);
            let keys = &self.operands.keys[start..start + shape.head_elements()];
            let values = &self.operands.values[start..start + shape.head_elements()];
            let place = index - first_block;
            let lines = &mut state.keys[place * head_dim..(place + 1) * head_dim];
            for (line, key) in lines.iter_mut().zip(keys.chunks_exact(LANES)) {
                store_line(simd, load_up_to(simd, key), line);
            }
            let tokens = place * BLOCK_TOKENS * state.width;
            let lines = &mut state.values[tokens..tokens + BLOCK_TOKENS * state.width];
            for (lines, value) in
                lines.chunks_exact_mut(state.width).zip(values.chunks_exact(head_dim))
            {
                for (line, part) in lines.iter_mut().zip(value.chunks(LANES)) {
                    store_line(simd, load_up_to(simd, part), line);
                }
            }
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, state: &State<'_>) {
        let head_dim = self.operands.shape.head_dim;
        for (index, query) in state.queries.iter().enumerate() {
            let start = self.head_start(index);
            // SAFETY: a row and head is in one task.
            let out = unsafe { self.out.part(start..start + head_dim) };
            let total = simd.splat(query.total);
            let sums = &state.sums[index * state.width..(index + 1) * state.width];
            for (sum, out) in sums.iter().zip(out.chunks_mut(LANES)) {
                store_up_to(simd, simd.div(load_line(simd, sum), total), out);
            }
        }
    }
}

// === impl State ===

impl State<'_> {
    /// Computes `q k^T` for all queries and the given blocks of the span.
    #[inline(always)]
    fn score<S: Simd>(&mut self, simd: S, blocks: Range<usize>) {
        let mut query = 0;
        while S::SCORE_ROWS >= 8 && query + 8 <= self.queries.len() {
            self.score_rows::<S, 8, 2>(simd, query, blocks.clone());
            query += 8;
        }
        while S::SCORE_ROWS >= 4 && query + 4 <= self.queries.len() {
            if S::SCORE_ROWS == 4 {
                self.score_rows::<S, 4, 1>(simd, query, blocks.clone());
            } else {
                self.score_rows::<S, 4, 4>(simd, query, blocks.clone());
            }
            query += 4;
        }
        while query < self.queries.len() {
            if S::SCORE_ROWS >= 4 {
                self.score_rows::<S, 1, 4>(simd, query, blocks.clone());
            } else {
                self.score_rows::<S, 1, 2>(simd, query, blocks.clone());
            }
            query += 1;
        }
    }

    #[inline(always)]
    fn score_rows<S: Simd, const R: usize, const B: usize>(
        &mut self,
        simd: S,
        query: usize,
        blocks: Range<usize>,
    ) {
        let mut block = blocks.start;
        while block + B <= blocks.end {
            self.score_blocks::<S, R, B>(simd, query, block);
            block += B;
        }
        while block < blocks.end {
            self.score_blocks::<S, R, 1>(simd, query, block);
            block += 1;
        }
    }

    #[inline(always)]
    fn score_blocks<S: Simd, const R: usize, const B: usize>(
        &mut self,
        simd: S,
        query: usize,
        block: usize,
    ) {
        let head_dim = self.head_dim;
        let q = &self.q[query * self.width..(query + R) * self.width];
        let keys = &self.keys[block * head_dim..(block + B) * head_dim];
        let stride = self.width * LANES;
        let (q, keys) = (q.as_ptr().cast::<f32>(), keys.as_ptr());
        let mut sums = [[simd.splat(0.0); B]; R];
        for d in 0..head_dim {
            let mut key = [simd.splat(0.0); B];
            for b in 0..B {
                // SAFETY: inside of the slice of `B` blocks; a line is one vector.
                key[b] = unsafe { simd.load_f32(keys.add(b * head_dim + d).cast()) };
            }
            for r in 0..R {
                // SAFETY: inside of the slice of `R` queries: `d` is below their width.
                let q = simd.splat(unsafe { *q.add(r * stride + d) });
                for b in 0..B {
                    sums[r][b] = simd.fma(q, key[b], sums[r][b]);
                }
            }
        }
        for r in 0..R {
            for b in 0..B {
                let line = (query + r) * SPAN_BLOCKS + block + b;
                store_line(simd, sums[r][b], &mut self.scores[line]);
            }
        }
    }

    /// Turns scores into exponentials and brings the earlier sums to the new maximum.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, simd: S, scale: f32) {
        let nothing = simd.splat(f32::NEG_INFINITY);
        for (index, query) in self.queries.iter_mut().enumerate() {
            if query.here.is_empty() {
                continue;
            }
            let scores = &mut self.scores[index * SPAN_BLOCKS..(index + 1) * SPAN_BLOCKS];
            let mut masked = [nothing; SPAN_BLOCKS];
            for b in 0..SPAN_BLOCKS {
                let scaled = simd.mul(load_line(simd, &scores[b]), simd.splat(scale));
                let from = query.here.start.saturating_sub(b * LANES).min(LANES);
                let to = query.here.end.saturating_sub(b * LANES).min(LANES);
                masked[b] = simd.keep_lanes(scaled, from, to, nothing);
            }
            let low = simd.max(masked[0], masked[1]);
            let high = simd.max(masked[2], masked[3]);
            let max = simd.max_lane(simd.max(low, high));
            let max = if max > query.max { max } else { query.max };
            for b in 0..SPAN_BLOCKS {
                masked[b] = simd.exp(simd.sub(masked[b], simd.splat(max)));
                store_line(simd, masked[b], &mut scores[b]);
            }
            let total = simd.add(simd.add(masked[0], masked[1]), simd.add(masked[2], masked[3]));
            let mut kept = Line::ZERO;
            store_line(simd, simd.exp(simd.splat(query.max - max)), &mut kept);
            let kept = kept.0[0];
            query.total = query.total * kept + simd.sum(total);
            query.max = max;
            if kept != 1.0 {
                for line in &mut self.sums[index * self.width..(index + 1) * self.width] {
                    let scaled = simd.mul(load_line(simd, line), simd.splat(kept));
                    store_line(simd, scaled, line);
                }
            }
        }
    }

    /// Adds the span's values, weighted by the exponentials, token after token.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S) {
        let mut query = 0;
        while S::VALUE_ROWS >= 4 && query + 4 <= self.queries.len() {
            self.weigh_group::<S, 4, 4>(simd, query);
            query += 4;
        }
        while S::VALUE_ROWS >= 2 && query + 2 <= self.queries.len() {
            self.weigh_group::<S, 2, 2>(simd, query);
            query += 2;
        }
        while query < self.queries.len() {
            self.weigh_group::<S, 1, 2>(simd, query);
            query += 1;
        }
    }

    /// Adds the values for `R` queries: positions that all of them attend to together, the others query by
    /// query (**ATT-2**).
    #[inline(always)]
    fn weigh_group<S: Simd, const R: usize, const D: usize>(&mut self, simd: S, first: usize) {
        let group = first..first + R;
        let mut common = 0..SPAN;
        for query in &self.queries[group.clone()] {
            common.start = common.start.max(query.here.start);
            common.end = common.end.min(query.here.end);
        }
        if common.is_empty() {
            common = SPAN..SPAN;
        }
        for query in group.clone() {
            let here = self.queries[query].here.clone();
            self.weigh_tokens::<S, 1, D>(simd, query, here.start..here.end.min(common.start));
        }
        self.weigh_tokens::<S, R, D>(simd, first, common.clone());
        for query in group {
            let here = self.queries[query].here.clone();
            self.weigh_tokens::<S, 1, D>(simd, query, here.start.max(common.end)..here.end);
        }
    }

    #[inline(always)]
    fn weigh_tokens<S: Simd, const R: usize, const D: usize>(
        &mut self,
        simd: S,
        query: usize,
        tokens: Range<usize>,
    ) {
        if tokens.is_empty() {
            return;
        }
        let mut column = 0;
        while column + D <= self.width {
            self.weigh_columns::<S, R, D>(simd, query, tokens.clone(), column);
            column += D;
        }
        while column < self.width {
            self.weigh_columns::<S, R, 1>(simd, query, tokens.clone(), column);
            column += 1;
        }
    }

    /// Adds the values for `R` queries and `D` vectors of the head, from vector `column`.
    #[inline(always)]
    fn weigh_columns<S: Simd, const R: usize, const D: usize>(
        &mut self,
        simd: S,
        query: usize,
        tokens: Range<usize>,
        column: usize,
    ) {
        let width = self.width;
        let state = &mut self.sums[query * width..(query + R) * width];
        let weights = &self.scores[query * SPAN_BLOCKS..(query + R) * SPAN_BLOCKS];
        let values = &self.values[tokens.start * width..tokens.end * width];
        let weights = weights.as_ptr().cast::<f32>();
        let mut sums = [[simd.splat(0.0); D]; R];
        for r in 0..R {
            for d in 0..D {
                sums[r][d] = load_line(simd, &state[r * width + column + d]);
            }
        }
        for (token, value) in tokens.zip(values.chunks_exact(width)) {
            let value = &value[column..column + D];
            let mut vectors = [simd.splat(0.0); D];
            for d in 0..D {
                vectors[d] = load_line(simd, &value[d]);
            }
            for r in 0..R {
                // SAFETY: the slice has `R` queries of `SPAN` weights, and `token` is below that.
                let weight = simd.splat(unsafe { *weights.add(r * SPAN + token) });
                for d in 0..D {
                    sums[r][d] = simd.fma(weight, vectors[d], sums[r][d]);
                }
            }
        }
        for r in 0..R {
            for d in 0..D {
                store_line(simd, sums[r][d], &mut state[r * width + column + d]);
            }
        }
    }
}

#[inline(always)]
fn load_line<S: Simd>(simd: S, line: &Line) -> S::F {
    // SAFETY: a line is one vector.
    unsafe { simd.load_f32(line.0.as_ptr()) }
}

#[inline(always)]
fn store_line<S: Simd>(simd: S, value: S::F, line: &mut Line) {
    // SAFETY: a line is one vector.
    unsafe { simd.store_f32(value, line.0.as_mut_ptr()) }
}
