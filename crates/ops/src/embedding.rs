//! Lookup of rows of the embedding table.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::element::{Element, elements, with_element};

struct Embedding<'a> {
    ids: &'a [u32],
    /// The id of the table's first row.
    first: usize,
}

/// Returns the rows that `ids` name, `[ids.len(), hidden]`, of a vocabulary of which `table` (`[held,
/// hidden]`) has the rows `held`. Rows that are not held are zero, so that the sum over the ranks that share
/// a vocabulary gives all rows.
///
/// # Errors
/// When an id is not below `vocab`, `held` is not what the table has, or the table is strided.
pub fn embedding(table: &Tensor, ids: &[u32], held: Range<usize>, vocab: usize) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    if rows != held.len() || held.end > vocab {
        bail!("embedding: the table has {rows} rows, not {held:?} of {vocab}");
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        bail!("embedding: token id {id}, the vocabulary has {vocab}");
    }
    table.apply_op1_no_bwd(&Embedding { ids, first: held.start })
}

// === impl Embedding ===

impl CustomOp1 for Embedding<'_> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage as _;
        let hidden = layout.dims()[1];
        with_element!(table.dtype(), self.name(), E => {
            let table = elements::<E>(table, layout, "embedding: the table")?;
            let rows = E::to_cpu_storage_owned(self.gather(table, hidden));
            Ok((rows, Shape::from((self.ids.len(), hidden))))
        })
    }
}

impl Embedding<'_> {
    fn gather<E: Element>(&self, table: &[E], hidden: usize) -> Vec<E> {
        let mut rows = Vec::with_capacity(self.ids.len() * hidden);
        for &id in self.ids {
            let row = (id as usize).checked_sub(self.first).map(|row| row * hidden);
            match row.and_then(|start| table.get(start..start + hidden)) {
                Some(row) => rows.extend_from_slice(row),
                None => rows.resize(rows.len() + hidden, E::ZERO),
            }
        }
        rows
    }
}
