//! The widths of a [`ParallelSpec`], with every width derived that the spec leaves open.

use playhouse_types::{ExpertParallel, ParallelSpec};
use serde::Serialize;

/// Every width of a pool of replicas, in ranks. Derived without judgement: a spec whose products do not match
/// gives widths whose products do not match, which the rules then report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Widths {
    /// Replicas.
    pub replicas: u32,
    /// Stages of a replica.
    pub stages: u32,
    /// Ranks of a stage: `tensor * prefill_context`.
    pub stage_ranks: u32,
    /// Ranks of a stage, context aside.
    pub tensor: u32,
    /// Ranks that split the dense layers and the shared experts.
    pub dense_tensor: u32,
    /// Ranks that split the embedding table: the ranks of an attention group, which need only the tokens of
    /// that group.
    pub embedding_tensor: u32,
    /// Ranks that split the language-model head.
    pub head_tensor: u32,
    /// Attention-DP groups of a stage.
    pub attention_data: u32,
    /// Ranks that split the tokens of a request in attention.
    pub attention_context: u32,
    /// Ranks that split the heads of a request.
    pub attention_tensor: u32,
    /// Ranks that split the KV cache of a request along the sequence.
    pub decode_context: u32,
    /// Copies of the experts within a stage.
    pub moe_data: u32,
    /// Ranks within a stage over which whole experts are spread.
    pub moe_expert: u32,
    /// Ranks within a stage over which one expert is split.
    pub moe_tensor: u32,
    /// Ranks of a cluster that share an expert's rows.
    pub moe_cluster: u32,
    /// Replicas that one expert group spans: `replicas` in vLLM's expert parallelism, else 1.
    pub expert_replicas: u32,
    /// Replicas that one expert is split over: `replicas` in vLLM without expert parallelism, else 1.
    pub slice_replicas: u32,
}

impl Widths {
    /// Derives the open widths of `spec`: attention tensor width first, expert tensor width last.
    #[must_use]
    pub fn of(spec: &ParallelSpec) -> Self {
        let stage_ranks = spec.tensor.saturating_mul(spec.prefill_context);
        let rest = |taken: u32| (stage_ranks / taken.max(1)).max(1);
        let attention_context = match (spec.attention_context, spec.attention_tensor) {
            (Some(context), _) => context,
            (None, Some(tensor)) => rest(spec.attention_data.saturating_mul(tensor)),
            (None, None) => spec.prefill_context,
        };
        let attention_tensor = spec
            .attention_tensor
            .unwrap_or_else(|| rest(spec.attention_data.saturating_mul(attention_context)));
        let (moe_expert, expert_replicas, slice_replicas) = match spec.expert {
            ExpertParallel::Off => (1, 1, 1),
            ExpertParallel::SplitAcrossReplicas => (1, 1, spec.data),
            ExpertParallel::Within(width) => (width, 1, 1),
            ExpertParallel::AcrossReplicas => (stage_ranks, spec.data, 1),
        };
        let others = spec.moe_data.saturating_mul(moe_expert).saturating_mul(spec.moe_cluster);
        Self {
            replicas: spec.data,
            stages: spec.pipeline,
            stage_ranks,
            tensor: spec.tensor,
            dense_tensor: spec.moe_dense_tensor.or(spec.dense_tensor).unwrap_or(spec.tensor),
            embedding_tensor: if spec.attention_data > 1 { attention_tensor } else { spec.tensor },
            head_tensor: spec.head_tensor.unwrap_or(spec.tensor),
            attention_data: spec.attention_data,
            attention_context,
            attention_tensor,
            decode_context: spec.decode_context,
            moe_data: spec.moe_data,
            moe_expert,
            moe_tensor: spec.moe_tensor.unwrap_or_else(|| rest(others)),
            moe_cluster: spec.moe_cluster,
            expert_replicas,
            slice_replicas,
        }
    }

    /// Returns the number of ranks over which whole experts are spread, those of other replicas included.
    #[must_use]
    pub fn expert(&self) -> u32 {
        self.moe_expert.saturating_mul(self.expert_replicas)
    }

    /// Returns the number of ranks that split one expert, those of other replicas included.
    #[must_use]
    pub fn expert_slices(&self) -> u32 {
        self.moe_tensor.saturating_mul(self.moe_cluster).saturating_mul(self.slice_replicas)
    }

    /// Returns the number of replicas whose ranks share one set of experts.
    #[must_use]
    pub fn sharing_replicas(&self) -> u32 {
        self.expert_replicas.max(self.slice_replicas)
    }

    /// Returns the number of ranks of a replica.
    #[must_use]
    pub fn replica_ranks(&self) -> u64 {
        u64::from(self.stages) * u64::from(self.stage_ranks)
    }

    /// Returns the number of ranks of the pool.
    #[must_use]
    pub fn world(&self) -> u64 {
        self.replica_ranks().saturating_mul(u64::from(self.replicas))
    }
}
