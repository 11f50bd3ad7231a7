//! The part of a decoder that one rank holds.
//!
//! After Megatron-LM (arXiv 1909.08053): projections into a block are cut by output columns (query,
//! key, value, gate, up), those out of it by input (out, down), so that a block needs one
//! all-reduce; embedding and head are cut by rows of the vocabulary.
//!
//! - **MP-1** the ranks of a tensor group hold every query head, inner column and vocabulary row exactly
//!   once, and every KV head at least once: with more ranks than KV heads, neighbouring ranks hold the same
//!   head.
//! - **MP-2** a query head and the KV head it attends with are on the same rank.
//!
//! Not here: the place of each rank, and the rules of division (see `playhouse-layout`).

use std::ops::Range;

use playhouse_layout::{Axis, Part, Share};
use playhouse_types::{Attention, DecoderSpec, Dense, FeedForward, Gqa, LayerSpec, Mla, Moe};

/// The part of a decoder that a rank holds: some layers, and a share of each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    layers: Range<usize>,
    share: Share,
}

/// The reason why a rank cannot hold a part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The range of layers is empty or outside of the decoder.
    #[error("layers {}..{} of {all}: expected a range that is not empty, within 0..{all}", .layers.start, .layers.end)]
    Layers {
        /// Range that was asked for.
        layers: Range<usize>,
        /// Layers of the decoder.
        all: usize,
    },
    /// The rank is not below the size of the tensor group.
    #[error("tensor rank {rank} of {size}: expected a rank below the size")]
    Rank {
        /// Rank that was asked for.
        rank: u32,
        /// Ranks of the tensor group.
        size: u32,
    },
    /// The tensor width does not divide a layer.
    #[error("tensor width {size}: layer {layer} has {count} {what}, expected {expected}")]
    Width {
        /// Ranks of the tensor group.
        size: u32,
        /// The first layer that cannot be cut.
        layer: usize,
        /// Count of `what` in the layer.
        count: usize,
        /// Name of the part that cannot be cut.
        what: &'static str,
        /// Counts that could be cut.
        expected: &'static str,
    },
}

// === impl Shard ===

impl Shard {
    /// Returns the shard that holds the whole decoder.
    #[must_use]
    pub fn whole(spec: &DecoderSpec) -> Self {
        let all = spec.layers.len();
        Self { layers: 0..all, share: Share::whole(all as u64) }
    }

    /// Returns the shard of a rank with `share` of `spec`.
    ///
    /// # Errors
    /// When the range of layers is empty or outside of the decoder, the part does not exist, or heads cannot
    /// be divided evenly.
    pub fn new(spec: &DecoderSpec, share: &Share) -> Result<Self, ShardError> {
        let all = spec.layers.len();
        let index = |layer: u64| usize::try_from(layer).unwrap_or(usize::MAX);
        let layers = index(share.layers.first)..index(share.layers.end());
        if layers.is_empty() || layers.end > all {
            return Err(ShardError::Layers { layers, all });
        }
        let Share { attention, dense, embedding, head, .. } = *share;
        for part in [attention, dense, embedding, head] {
            if part.at >= part.of {
                return Err(ShardError::Rank { rank: part.at, size: part.of });
            }
        }
        for layer in layers.clone() {
            check_width(layer, &spec.layers[layer], share)?;
        }
        Ok(Self { layers, share: *share })
    }

    /// Returns the layers that the rank holds.
    #[must_use]
    pub fn layers(&self) -> Range<usize> {
        self.layers.clone()
    }

    /// Returns whether the shard embeds tokens.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.share.is_first()
    }

    /// Returns whether the shard has the language-model head.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.share.is_last()
    }

    /// Returns the share that the shard holds.
    #[must_use]
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Returns the part of `spec` that the rank holds, as a decoder of its own: fewer layers, of fewer heads
    /// and inner columns.
    #[must_use]
    pub fn spec(&self, spec: &DecoderSpec) -> DecoderSpec {
        let layer = |layer: &LayerSpec| LayerSpec {
            attention: self.attention(layer.attention),
            feed_forward: self.feed_forward(layer.feed_forward),
            ..*layer
        };
        let layers = spec.layers[self.layers()].iter().map(layer).collect();
        DecoderSpec { layers, ..spec.clone() }
    }

    fn attention(&self, attention: Attention) -> Attention {
        let heads = |all: usize| self.held(Axis::Heads(all as u64)).len();
        match attention {
            Attention::Gqa(gqa) => Attention::Gqa(Gqa {
                heads: heads(gqa.heads),
                kv_heads: self.held(Axis::KvHeads(gqa.kv_heads as u64)).len(),
                ..gqa
            }),
            Attention::Mla(mla) => Attention::Mla(Mla { heads: heads(mla.heads), ..mla }),
        }
    }

    fn feed_forward(&self, block: FeedForward) -> FeedForward {
        match block {
            FeedForward::Dense(dense) => {
                let inner = self.held(Axis::Inner(dense.inner as u64)).len();
                FeedForward::Dense(Dense { inner, ..dense })
            }
            FeedForward::Moe(moe) => {
                let inner = self.held(Axis::ExpertInner(moe.inner as u64)).len();
                FeedForward::Moe(Moe { inner, ..moe })
            }
        }
    }

    /// Returns the rows that the rank holds of an embedding table with `count` rows.
    pub(crate) fn embedding_rows(&self, count: usize) -> Range<usize> {
        self.held(Axis::Embedding(count as u64))
    }

    /// Returns how many rows of a language-model head with `count` rows each rank has that splits the head.
    pub(crate) fn head_shares(&self, count: usize) -> Vec<usize> {
        let of = self.share.head.of;
        (0..of).map(|at| Part { at, of }.slice(count as u64).count as usize).collect()
    }

    fn held(&self, axis: Axis) -> Range<usize> {
        let slice = self.share.held(axis);
        slice.first as usize..slice.end() as usize
    }
}

fn check_width(layer: usize, spec: &LayerSpec, share: &Share) -> Result<(), ShardError> {
    let refuse = |part: Part, count, what, expected| {
        Err(ShardError::Width { size: part.of, layer, count, what, expected })
    };
    let size = share.attention.of as usize;
    let (heads, kv_heads) = match spec.attention {
        Attention::Gqa(gqa) => (gqa.heads, Some(gqa.kv_heads)),
        Attention::Mla(mla) => (mla.heads, None),
    };
    if !heads.is_multiple_of(size) {
        return refuse(share.attention, heads, "query heads", "a multiple of the width");
    }
    let divides = |kv: &usize| kv.is_multiple_of(size) || size.is_multiple_of(*kv);
    if let Some(kv_heads) = kv_heads.filter(|kv| !divides(kv)) {
        let expected = "a multiple or a divisor of the width";
        return refuse(share.attention, kv_heads, "KV heads", expected);
    }
    match spec.feed_forward {
        FeedForward::Dense(Dense { inner, .. }) if inner < share.dense.of as usize => {
            refuse(share.dense, inner, "inner columns", "at least the width")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use playhouse_layout::Slice;
    use playhouse_types::{Activation, NormKind, NormPlace, Rope, RopeScaling};

    use super::*;

    fn spec(heads: usize, kv_heads: usize, inner: usize) -> DecoderSpec {
        let attention = Attention::Gqa(Gqa {
            heads,
            kv_heads,
            head_dim: 8,
            qkv_bias: false,
            out_bias: false,
            qk_norm: false,
        });
        let dense = Dense { inner, bias: false, activation: Activation::Silu };
        let feed_forward = FeedForward::Dense(dense);
        let norm_place = NormPlace::Before;
        let layer = LayerSpec { norm_place, attention, feed_forward, rope: 0, window: None };
        DecoderSpec {
            layers: vec![layer; 3],
            hidden: 16,
            vocab: 50,
            norm: NormKind::Rms,
            norm_eps: 1e-6,
            ropes: vec![Rope { dims: 8, theta: 1e4, scaling: RopeScaling::Default }],
            tied_embeddings: false,
            max_positions: 128,
        }
    }

    /// `layers` of three, and of each of them the share of a rank of `size`.
    fn share(layers: Range<u64>, at: u32, of: u32) -> Share {
        let part = Part { at, of };
        Share {
            layers: Slice { first: layers.start, count: layers.end.saturating_sub(layers.start) },
            attention: part,
            dense: part,
            embedding: part,
            head: part,
            ..Share::whole(3)
        }
    }

    /// MP-1 and MP-2, for every width that is accepted.
    #[test]
    fn ranks_hold_everything_once_and_share_only_kv_heads() {
        let mut accepted = 0;
        for (heads, kv_heads) in [(1, 1), (4, 2), (8, 1), (8, 8), (12, 4), (14, 2), (32, 8)] {
            let spec = spec(heads, kv_heads, 37);
            let (all_heads, all_kv) = (Axis::Heads(heads as u64), Axis::KvHeads(kv_heads as u64));
            for size in 1..=32 {
                let shards: Result<Vec<_>, _> =
                    (0..size).map(|rank| Shard::new(&spec, &share(0..3, rank, size))).collect();
                let width = size as usize;
                let divides = heads.is_multiple_of(width)
                    && (kv_heads.is_multiple_of(width) || width.is_multiple_of(kv_heads));
                assert_eq!(shards.is_ok(), divides, "{heads} heads, {kv_heads} KV, {size} ranks");
                let Ok(shards) = shards else { continue };
                accepted += 1;
                for count in [37, 50, heads] {
                    let rows = |shard: &Shard| shard.held(Axis::Head(count as u64));
                    let held: Vec<_> = shards.iter().flat_map(rows).collect();
                    assert_eq!(held, (0..count).collect::<Vec<_>>(), "MP-1: {count} on {size}");
                    let shares: Vec<_> = shards.iter().map(|shard| rows(shard).len()).collect();
                    assert_eq!(shares, shards[0].head_shares(count));
                }
                let mut kv: Vec<_> = shards.iter().flat_map(|s| s.held(all_kv)).collect();
                assert!(kv.is_sorted(), "MP-1");
                kv.dedup();
                assert_eq!(kv, (0..kv_heads).collect::<Vec<_>>(), "MP-1");
                for shard in &shards {
                    let (own, kv) = (shard.held(all_heads), shard.held(all_kv));
                    assert!(
                        own.clone().all(|head| kv.contains(&(head / (heads / kv_heads)))),
                        "MP-2"
                    );
                    let local = shard.spec(&spec);
                    let Attention::Gqa(gqa) = local.layers[2].attention else { panic!("not GQA") };
                    assert_eq!((gqa.heads, gqa.kv_heads), (own.len(), kv.len()));
                    assert_eq!(own.len() % kv.len(), 0, "groups of query heads stay equal");
                }
            }
        }
        assert!(accepted > 20, "{accepted}");
    }

    #[test]
    fn what_cannot_be_cut_is_refused_with_the_numbers() {
        let spec = spec(12, 4, 37);
        let error = |layers, rank, size| {
            Shard::new(&spec, &share(layers, rank, size)).unwrap_err().to_string()
        };
        assert_eq!(
            error(0..3, 0, 5),
            "tensor width 5: layer 0 has 12 query heads, expected a multiple of the width"
        );
        assert_eq!(
            error(0..3, 0, 3),
            "tensor width 3: layer 0 has 4 KV heads, expected a multiple or a divisor of the width"
        );
        assert_eq!(error(0..3, 2, 2), "tensor rank 2 of 2: expected a rank below the size");
        assert_eq!(
            error(1..4, 0, 1),
            "layers 1..4 of 3: expected a range that is not empty, within 0..3"
        );
        assert!(error(2..2, 0, 1).starts_with("layers 2..2 of 3"));
    }

    #[test]
    fn a_stage_knows_whether_it_embeds_and_whether_it_has_the_head() {
        let spec = spec(4, 2, 8);
        let stage = |layers, at, of| {
            Shard::new(&spec, &Share { stage: Part { at, of }, ..share(layers, 0, 1) }).unwrap()
        };
        let ends =
            |shard: Shard| (shard.is_first(), shard.is_last(), shard.spec(&spec).layers.len());
        assert_eq!(ends(stage(0..1, 0, 3)), (true, false, 1));
        assert_eq!(ends(stage(1..2, 1, 3)), (false, false, 1));
        assert_eq!(ends(stage(1..3, 1, 2)), (false, true, 2));
        assert_eq!(ends(Shard::whole(&spec)), (true, true, 3));
    }
}
