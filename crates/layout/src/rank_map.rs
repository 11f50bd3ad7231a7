//! The place of every rank in each factorisation of the ranks, and the share of the model that it holds.
//!
//! - **MAP-1** the map is a bijection between ranks `0..world` and
//!   `(replica, stage, attention-DP, context, attention tensor)`, the last fastest; within a replica
//!   also between ranks and `(stage, MoE data, expert, MoE slice)`.
//! - **MAP-2** ranks of one stage are consecutive and stages of one replica follow each other, so the ranks
//!   `first..first + stage_ranks` can be placed on one node.

use std::ops::Range;

use playhouse_types::{ExpertPlacement, ParallelSpec};
use serde::{Deserialize, Serialize};

use crate::{Axis, ExpertPart, ExpertSlice, ModelShape, Part, Share, Slice, Widths};

/// A layout with every rank in its place. Small, because coordinates are computed on request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankMap {
    widths: Widths,
    /// Layers of each stage.
    stages: Vec<Slice>,
    expert_placement: ExpertPlacement,
    redundant_experts: u64,
    /// Whether the model has routed experts.
    routed: bool,
}

/// The place of one rank in a layout. All counts start at 0.
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

// === impl RankMap ===

impl RankMap {
    /// Returns the map of a layout. A layout that cannot run has a map of the numbers in its spec, too.
    #[must_use]
    pub fn new(spec: &ParallelSpec, shape: &ModelShape) -> Self {
        let routed = shape.is_moe();
        // The dense layers of a mixture of experts may have a width of their own; those of a dense
        // model are the model.
        let moe_dense_tensor = spec.moe_dense_tensor.filter(|_| routed);
        let spec = ParallelSpec { moe_dense_tensor, ..spec.clone() };
        let mut map = Self { routed, ..Self::of_layers(&spec, shape.spec.layers.len() as u64) };
        if shape.spec.tied_embeddings {
            // The head is the embedding table.
            map.widths.head_tensor = map.widths.embedding_tensor;
        }
        map
    }

    /// Returns the map of a layout of a dense model of `layers` layers about which nothing else is known.
    #[must_use]
    pub fn of_layers(spec: &ParallelSpec, layers: u64) -> Self {
        Self {
            widths: Widths::of(spec),
            stages: stages(spec, layers),
            expert_placement: spec.expert_placement,
            redundant_experts: spec.redundant_experts.into(),
            routed: false,
        }
    }

    /// Returns the widths of the layout.
    #[must_use]
    pub fn widths(&self) -> &Widths {
        &self.widths
    }

    /// Returns the number of ranks of the pool.
    #[must_use]
    pub fn world(&self) -> u32 {
        u32::try_from(self.widths.world()).unwrap_or(u32::MAX)
    }

    /// Returns the layers of each stage.
    #[must_use]
    pub fn stages(&self) -> &[Slice] {
        &self.stages
    }

    /// Returns whether the model has routed experts.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.routed
    }

    /// Returns the number of ranks of one replica.
    #[must_use]
    pub fn replica_ranks(&self) -> usize {
        usize::try_from(self.widths.replica_ranks()).unwrap_or(usize::MAX)
    }

    /// Returns the index range of the ranks of each stage of a replica.
    pub fn stage_indices(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let ranks = self.widths.stage_ranks;
        (0..self.widths.stages).map(move |stage| {
            let first = stage.saturating_mul(ranks);
            first..first.saturating_add(ranks)
        })
    }

    /// Returns the number of ranks of a stage.
    #[must_use]
    pub fn stage_ranks(&self) -> usize {
        self.widths.stage_ranks as usize
    }

    /// Returns whether the outcomes of steps come from this rank, which is the first rank of the last stage
    /// of its replica.
    #[must_use]
    pub fn samples(&self, rank: u32) -> bool {
        let at = self.coordinates(rank);
        at.stage_rank == 0 && at.stage + 1 == self.widths.stages
    }

    /// Returns all ranks in order.
    pub fn ranks(&self) -> impl Iterator<Item = Coordinates> + '_ {
        (0..self.world()).map(|rank| self.coordinates(rank))
    }

    /// Returns the place of a rank. Attention and experts follow SGLang's `runtime_context.py`, with
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

    /// Returns the share of the model that a rank holds.
    #[must_use]
    pub fn share(&self, at: &Coordinates) -> Share {
        let widths = &self.widths;
        let part = |at: u32, of: u32| Part { at, of };
        // Over consecutive ranks of the stage.
        let split = |of: u32| part(at.stage_rank % of.max(1), of);
        let slice = at.moe_tensor.saturating_mul(widths.moe_cluster).saturating_add(at.moe_cluster);
        Share {
            stage: part(at.stage, widths.stages),
            layers: self.stages.get(at.stage as usize).copied().unwrap_or_default(),
            attention: part(at.tensor, widths.attention_tensor),
            dense: split(widths.dense_tensor),
            expert_slice: part(slice, widths.expert_slices()),
            experts: ExpertPart {
                part: part(at.expert, widths.expert()),
                placement: self.expert_placement,
                redundant: self.redundant_experts,
            },
            embedding: split(widths.embedding_tensor),
            head: split(widths.head_tensor),
        }
    }

    /// Returns the units of an axis that a rank holds ([`Share::held`]).
    #[must_use]
    pub fn held(&self, at: &Coordinates, axis: Axis) -> Slice {
        self.share(at).held(axis)
    }

    /// Returns the physical experts that a rank holds in a layer with `logical` experts.
    #[must_use]
    pub fn experts(&self, at: &Coordinates, logical: u64) -> ExpertSlice {
        self.share(at).experts(logical)
    }
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
