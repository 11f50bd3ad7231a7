//! What a rank holds, counted for a model.

use playhouse_layout::{Experts, Share};
use serde::{Deserialize, Serialize};

use crate::{AttentionShape, Axis, FfnShape, ModelShape, Slice};

/// What one rank holds of a model whose layers are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Layers.
    pub layers: Slice,
    /// Query heads of each layer.
    pub query_heads: Slice,
    /// Key and value heads; `None` for latent attention, whose compressed KV has no heads.
    pub kv_heads: Option<Slice>,
    /// Experts of a routed layer; `None` without one.
    pub experts: Option<Experts>,
    /// Rows of the embedding table; `None` behind the first stage.
    pub embedding: Option<Slice>,
    /// Rows of the language-model head; `None` before the last stage.
    pub head: Option<Slice>,
}

// === impl Holding ===

impl Holding {
    /// What a share is of `shape`.
    #[must_use]
    pub fn of(share: &Share, shape: &ModelShape) -> Self {
        let first = shape.layers.get(usize::try_from(share.layers.first).unwrap_or(usize::MAX));
        let (heads, kv_heads) = match first.map(|layer| layer.attention) {
            Some(AttentionShape::Gqa { heads, kv_heads, .. }) => (heads, Some(kv_heads)),
            Some(AttentionShape::Mla { heads, .. }) => (heads, None),
            None => (0, None),
        };
        Self {
            layers: share.layers,
            query_heads: share.held(Axis::Heads(heads)),
            kv_heads: kv_heads.map(|heads| share.held(Axis::KvHeads(heads))),
            experts: routed_experts(shape).map(|experts| share.experts(experts)),
            embedding: share.is_first().then(|| share.held(Axis::Embedding(shape.vocab))),
            head: share.is_last().then(|| share.held(Axis::Head(shape.vocab))),
        }
    }
}

/// Experts of the first routed layer.
fn routed_experts(shape: &ModelShape) -> Option<u64> {
    shape.layers.iter().find_map(|layer| match layer.ffn {
        FfnShape::Moe { experts, .. } => Some(experts),
        FfnShape::Dense { .. } => None,
    })
}
