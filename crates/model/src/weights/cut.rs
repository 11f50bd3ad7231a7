//! Parts of a stored tensor.

use std::borrow::Cow;

use crate::shard::Cut;

// === impl Cut ===

impl Cut {
    /// The dimension that is cut.
    pub(super) fn dimension(&self) -> usize {
        usize::from(matches!(self, Cut::Columns(_)))
    }

    /// How much of that dimension is held.
    pub(super) fn len(&self, shape: &[usize]) -> usize {
        match self {
            Cut::Whole => shape[0],
            Cut::Rows(range) | Cut::Columns(range) => range.len(),
        }
    }

    /// The shape of the part.
    pub(super) fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let mut shape = whole.to_vec();
        shape[self.dimension()] = self.len(whole);
        shape
    }

    /// The bytes of the part, out of all of a row-major tensor: in place where they lie together.
    pub(super) fn bytes<'a>(&self, all: &'a [u8], shape: &[usize]) -> Cow<'a, [u8]> {
        let row = all.len() / shape[0].max(1);
        match self {
            Cut::Whole => Cow::Borrowed(all),
            Cut::Rows(range) => Cow::Borrowed(&all[range.start * row..range.end * row]),
            Cut::Columns(range) if range.len() == shape[1] => Cow::Borrowed(all),
            Cut::Columns(range) => {
                let element = row / shape[1].max(1);
                let mut bytes = Vec::with_capacity(shape[0] * range.len() * element);
                for row in all.chunks_exact(row) {
                    bytes.extend_from_slice(&row[range.start * element..range.end * element]);
                }
                Cow::Owned(bytes)
            }
        }
    }
}
