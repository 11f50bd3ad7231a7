//! Parts of a stored tensor.

use std::borrow::Cow;
use std::ops::Range;

use playhouse_layout::Slice;

/// The rows and columns that a rank holds of a row-major tensor; a vector has one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorPart {
    rows: Range<usize>,
    columns: Range<usize>,
}

// === impl TensorPart ===

impl TensorPart {
    pub(super) fn new((rows, columns): (Slice, Slice)) -> Self {
        let range = |slice: Slice| slice.first as usize..slice.end() as usize;
        Self { rows: range(rows), columns: range(columns) }
    }

    /// Returns the shape of the part.
    pub(super) fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let mut shape = vec![self.rows.len(), self.columns.len()];
        shape.truncate(whole.len());
        shape
    }

    /// Returns the bytes of the part, given the whole tensor: borrowed where they are contiguous.
    pub(super) fn bytes<'a>(&self, all: &'a [u8], shape: &[usize]) -> Cow<'a, [u8]> {
        let row = all.len() / shape[0].max(1);
        let rows = &all[self.rows.start * row..self.rows.end * row];
        let width = shape.get(1).copied().unwrap_or(1);
        if self.columns.len() == width {
            return Cow::Borrowed(rows);
        }
        let element = row / width.max(1);
        let mut bytes = Vec::with_capacity(self.rows.len() * self.columns.len() * element);
        for row in rows.chunks_exact(row) {
            let columns = self.columns.start * element..self.columns.end * element;
            bytes.extend_from_slice(&row[columns]);
        }
        Cow::Owned(bytes)
    }
}
