//! The share of a model that a rank holds, in the units of the model.

use playhouse_layout::{ExpertSlice, Share};
use serde::{Deserialize, Serialize};

use playhouse_types::{Attention, FeedForward};

use crate::{Axis, ModelShape, Slice};

/// What one rank holds of a model whose layers are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Layers of the rank's stage.
    pub layers: Slice,
    /// Query heads of each layer.
    pub query_heads: Slice,
    /// Key and value heads; `None` for latent attention, whose compressed KV has no heads.
    pub kv_heads: Option<Slice>,
    /// Experts of a routed layer; `None` for a model without routed layers.
    pub experts: Option<ExpertSlice>,
    /// Rows of the embedding table; `None` after the first stage.
    pub embedding: Option<Slice>,
    /// Rows of the language-model head; `None` before the last stage.
    pub head: Option<Slice>,
}

// === impl Holding ===

impl Holding {
    /// Returns what a rank with `share` holds of `shape`.
    #[must_use]
    pub fn of(share: &Share, shape: &ModelShape) -> Self {
        let spec = &shape.spec;
        let first = spec.layers.get(usize::try_from(share.layers.first).unwrap_or(usize::MAX));
        let (heads, kv_heads) = match first.map(|layer| layer.attention) {
            Some(Attention::Gqa(gqa)) => (gqa.heads, Some(gqa.kv_heads as u64)),
            Some(Attention::Mla(mla)) => (mla.heads, None),
            None => (0, None),
        };
        Self {
            layers: share.layers,
            query_heads: share.held(Axis::Heads(heads as u64)),
            kv_heads: kv_heads.map(|heads| share.held(Axis::KvHeads(heads))),
            experts: routed_experts(shape).map(|experts| share.experts(experts)),
            embedding: share.is_first().then(|| share.held(Axis::Embedding(spec.vocab as u64))),
            head: share.is_last().then(|| share.held(Axis::Head(spec.vocab as u64))),
        }
    }
}

/// Returns the number of experts of the first routed layer.
pub(crate) fn routed_experts(shape: &ModelShape) -> Option<u64> {
    shape.spec.layers.iter().find_map(|layer| match layer.feed_forward {
        FeedForward::Moe(moe) => Some(moe.experts as u64),
        FeedForward::Dense(_) => None,
    })
}
