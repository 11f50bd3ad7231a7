//! Which rank is what: the place of every rank in each factorisation, and what it holds.
//!
//! - **RM-1** the map is a bijection between ranks `0..world` and
//!   `(replica, stage, attention-DP, context, attention tensor)`, the last fastest; within a replica
//!   also between ranks and `(stage, MoE data, expert, MoE slice)`.
//! - **RM-2** ranks of one stage are consecutive, stages of one replica follow each other, so the
//!   ranks `first..first + stage_ranks` can sit on one node.
//! - **RM-3** nothing is divided silently: where a count does not divide, the first parts hold one
//!   more; where KV heads are fewer than the ranks, consecutive ranks hold the same head.
//!
//! The vocabulary is cut like everything else, unpadded, the remainder to the first ranks. (vLLM
//! pads it to a multiple of 64 and of the tensor width.)

use playhouse_types::{ExpertPlacement, ParallelSpec};
use serde::{Deserialize, Serialize};

use crate::rules::check_with;
use crate::{
    AttentionShape, Axis, FfnShape, ModelShape, RuleSet, Serving, Slice, Violation, Widths,
};

/// A layout with every rank in its place. Small: coordinates are computed when asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankMap {
    widths: Widths,
    /// Layers of each stage.
    stages: Vec<Slice>,
    expert_placement: ExpertPlacement,
    redundant_experts: u64,
}

/// Where one rank stands. All counts start at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Coordinates {
    /// Rank in the pool.
    pub rank: u32,
    /// Replica.
    pub replica: u32,
    /// Pipeline stage.
    pub stage: u32,
    /// Rank within the stage.
    pub stage_rank: u32,
    /// Attention-DP group.
    pub attention_data: u32,
    /// Place among the ranks that split the tokens of a prefill.
    pub context: u32,
    /// Place among the ranks that split the heads.
    pub tensor: u32,
    /// Place among the ranks that split the KV cache along the sequence.
    pub decode_context: u32,
    /// Copy of the experts within the stage.
    pub moe_data: u32,
    /// Place among the ranks that hold different experts, those of other replicas included.
    pub expert: u32,
    /// Place among the ranks that split one expert, those of other replicas included.
    pub moe_tensor: u32,
    /// Place within a cluster that shares an expert's rows.
    pub moe_cluster: u32,
}

/// What one rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
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

/// Physical experts `first`, `first + step`, …: `count` of them. Physical expert `p` is a copy of
/// logical expert `p % experts` until load is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// From one to the next.
    pub step: u64,
}

// === impl RankMap ===

impl RankMap {
    /// The map of a layout that can run.
    ///
    /// # Errors
    /// Every native rule that `spec` breaks.
    pub fn new(spec: &ParallelSpec, shape: &ModelShape) -> Result<Self, Vec<Violation>> {
        Self::with_blocks(spec, shape, Serving::default().block_tokens)
    }

    /// [`RankMap::new`] where a KV block holds `block_tokens` tokens.
    ///
    /// # Errors
    /// As for [`RankMap::new`].
    pub fn with_blocks(
        spec: &ParallelSpec,
        shape: &ModelShape,
        block_tokens: u32,
    ) -> Result<Self, Vec<Violation>> {
        let violations = check_with(spec, Some(shape), RuleSet::Native, block_tokens);
        if !violations.is_empty() {
            return Err(violations);
        }
        // The dense layers of a mixture of experts may have a width of their own; those of a dense
        // model are the model.
        let moe_dense_tensor = spec.moe_dense_tensor.filter(|_| shape.is_moe());
        let mut widths = Widths::of(&ParallelSpec { moe_dense_tensor, ..spec.clone() });
        if shape.tied_embeddings {
            // The head is the embedding table.
            widths.head_tensor = widths.embedding_tensor;
        }
        Ok(Self {
            widths,
            stages: stages(spec, shape.layers.len() as u64),
            expert_placement: spec.expert_placement,
            redundant_experts: spec.redundant_experts.into(),
        })
    }

    /// The widths of the layout.
    #[must_use]
    pub fn widths(&self) -> &Widths {
        &self.widths
    }

    /// Ranks of the pool.
    #[must_use]
    pub fn world(&self) -> u32 {
        u32::try_from(self.widths.world()).unwrap_or(u32::MAX)
    }

    /// Layers of each stage.
    #[must_use]
    pub fn stages(&self) -> &[Slice] {
        &self.stages
    }

    /// All ranks in order.
    pub fn ranks(&self) -> impl Iterator<Item = Coordinates> + '_ {
        (0..self.world()).map(|rank| self.coordinates(rank))
    }

    /// The place of a rank. Attention after SGLang's `runtime_context.py`, experts likewise, with
    /// TensorRT-LLM's cluster innermost.
    #[must_use]
    pub fn coordinates(&self, rank: u32) -> Coordinates {
        let widths = &self.widths;
        let mut outer = Mixed(rank);
        let stage_rank = outer.digit(widths.stage_ranks);
        let stage = outer.digit(widths.stages);
        let replica = outer.0;

        let mut attention = Mixed(stage_rank);
        let tensor = attention.digit(widths.attention_tensor);
        let context = attention.digit(widths.attention_context);
        let attention_data = attention.digit(widths.attention_data);

        let mut moe = Mixed(stage_rank);
        let moe_cluster = moe.digit(widths.moe_cluster);
        let moe_tensor = moe.digit(widths.moe_tensor);
        let expert = moe.digit(widths.moe_expert);
        let moe_data = moe.digit(widths.moe_data);
        let in_experts = replica % widths.expert_replicas.max(1);
        let in_slices = replica % widths.slice_replicas.max(1);
        // Context fastest, as vLLM cuts its decode-context groups.
        let in_group = tensor.saturating_mul(widths.attention_context).saturating_add(context);
        Coordinates {
            rank,
            replica,
            stage,
            stage_rank,
            attention_data,
            context,
            tensor,
            decode_context: in_group % widths.decode_context.max(1),
            moe_data,
            expert: in_experts.saturating_mul(widths.moe_expert).saturating_add(expert),
            moe_tensor: in_slices.saturating_mul(widths.moe_tensor).saturating_add(moe_tensor),
            moe_cluster,
        }
    }

    /// What a rank holds of `shape`.
    #[must_use]
    pub fn share(&self, shape: &ModelShape, at: &Coordinates) -> Share {
        let layers = self.stages.get(at.stage as usize).copied().unwrap_or_default();
        let first = shape.layers.get(usize::try_from(layers.first).unwrap_or(usize::MAX));
        let (heads, kv_heads) = match first.map(|layer| layer.attention) {
            Some(AttentionShape::Gqa { heads, kv_heads, .. }) => (heads, Some(kv_heads)),
            Some(AttentionShape::Mla { heads, .. }) => (heads, None),
            None => (0, None),
        };
        let (first, last) = (at.stage == 0, at.stage + 1 == self.widths.stages);
        Share {
            layers,
            query_heads: self.held(at, Axis::Heads(heads)),
            kv_heads: kv_heads.map(|heads| self.held(at, Axis::KvHeads(heads))),
            experts: routed_experts(shape).map(|experts| self.experts(at, experts)),
            embedding: first.then(|| self.held(at, Axis::Embedding(shape.vocab))),
            head: last.then(|| self.held(at, Axis::Head(shape.vocab))),
        }
    }

    /// The units of an axis that a rank holds (**RM-3**).
    #[must_use]
    pub fn held(&self, at: &Coordinates, axis: Axis) -> Slice {
        let widths = &self.widths;
        let part = |parts: u32, at: u32| Slice::even(axis.units(), parts.into(), at.into());
        // Over consecutive ranks of the stage.
        let split = |parts: u32| part(parts, at.stage_rank % parts.max(1));
        match axis {
            Axis::Heads(_) => part(widths.attention_tensor, at.tensor),
            Axis::KvHeads(heads) if heads < u64::from(widths.attention_tensor) => Slice {
                first: heads * u64::from(at.tensor) / u64::from(widths.attention_tensor),
                count: heads.min(1),
            },
            Axis::KvHeads(_) => part(widths.attention_tensor, at.tensor),
            Axis::Inner(_) => split(widths.dense_tensor),
            Axis::ExpertInner(_) => {
                let cluster = widths.moe_cluster;
                let slice = at.moe_tensor.saturating_mul(cluster).saturating_add(at.moe_cluster);
                part(widths.expert_slices(), slice)
            }
            Axis::Embedding(_) => split(widths.embedding_tensor),
            Axis::Head(_) => split(widths.head_tensor),
        }
    }

    /// The physical experts that a rank holds of a layer with `logical` experts. Linear and
    /// round-robin are vLLM's rules.
    #[must_use]
    pub fn experts(&self, at: &Coordinates, logical: u64) -> Experts {
        let physical = logical.saturating_add(self.redundant_experts);
        let width = u64::from(self.widths.expert()).max(1);
        let slice = Slice::even(physical, width, at.expert.into());
        match self.expert_placement {
            ExpertPlacement::Linear => Experts { first: slice.first, count: slice.count, step: 1 },
            ExpertPlacement::RoundRobin => {
                Experts { first: at.expert.into(), count: slice.count, step: width }
            }
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

/// The layers of each stage.
fn stages(spec: &ParallelSpec, layers: u64) -> Vec<Slice> {
    match &spec.pipeline_partition {
        Some(counts) => counts
            .iter()
            .scan(0u64, |next, &count| {
                let slice = Slice { first: *next, count: count.into() };
                *next = slice.end();
                Some(slice)
            })
            .collect(),
        None => (0..spec.pipeline)
            .map(|stage| Slice::even(layers, spec.pipeline.into(), stage.into()))
            .collect(),
    }
}

/// A number read digit by digit, the fastest first, each digit in a base of its own.
struct Mixed(u32);

// === impl Mixed ===

impl Mixed {
    fn digit(&mut self, base: u32) -> u32 {
        let base = base.max(1);
        let digit = self.0 % base;
        self.0 /= base;
        digit
    }
}

// === impl Experts ===

impl Experts {
    /// Each physical expert.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let Self { first, count, step } = *self;
        (0..count).map(move |at| first.saturating_add(at.saturating_mul(step)))
    }
}
