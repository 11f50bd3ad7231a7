//! Rows of the embedding table.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::element::{Element, elements, with_element};

struct Embedding<'a> {
    ids: &'a [u32],
}

/// The rows of `table` (`[vocab, hidden]`) that `ids` name: `[ids.len(), hidden]`.
///
/// # Errors
/// When an id is not below `vocab`, or the table is strided.
pub fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (vocab, _) = table.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        bail!("embedding: token id {id}, the table has {vocab} rows");
    }
    table.apply_op1_no_bwd(&Embedding { ids })
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
            let start = id as usize * hidden;
            rows.extend_from_slice(&table[start..start + hidden]);
        }
        rows
    }
}
