//! The numbers of a spec, by name.

use std::fmt;

use playhouse_types::{ExpertParallel, ParallelSpec};
use serde::{Serialize, Serializer};

/// A number of a [`ParallelSpec`]. Printed as its TOML key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the field of ParallelSpec of the same name")]
pub enum Field {
    Tensor,
    Pipeline,
    MicroBatchMax,
    Data,
    DataStartRank,
    DataLocal,
    DataRank,
    PrefillContext,
    DecodeContext,
    KvInterleaveTokens,
    AttentionData,
    AttentionTensor,
    AttentionContext,
    /// The width in `expert = { within = 8 }`.
    ExpertWithin,
    MoeTensor,
    MoeData,
    MoeCluster,
    DenseTensor,
    MoeDenseTensor,
    HeadTensor,
    RedundantExperts,
    /// `expert_balance.window_steps`.
    BalanceWindow,
    /// `expert_balance.interval_steps`.
    BalanceInterval,
}

/// A change that mends a violation: a number of a spec, and the value that the number could have instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The number to change.
    pub field: Field,
    /// The value to give to the number.
    pub value: u32,
}

// === impl Field ===

impl Field {
    /// All numbers.
    pub const ALL: [Self; 23] = [
        Self::Tensor,
        Self::Pipeline,
        Self::MicroBatchMax,
        Self::Data,
        Self::DataStartRank,
        Self::DataLocal,
        Self::DataRank,
        Self::PrefillContext,
        Self::DecodeContext,
        Self::KvInterleaveTokens,
        Self::AttentionData,
        Self::AttentionTensor,
        Self::AttentionContext,
        Self::ExpertWithin,
        Self::MoeTensor,
        Self::MoeData,
        Self::MoeCluster,
        Self::DenseTensor,
        Self::MoeDenseTensor,
        Self::HeadTensor,
        Self::RedundantExperts,
        Self::BalanceWindow,
        Self::BalanceInterval,
    ];

    /// Returns the number's value in `spec`; `None` where the spec leaves the number open or has none.
    #[must_use]
    pub fn get(self, spec: &ParallelSpec) -> Option<u32> {
        match self {
            Self::Tensor => Some(spec.tensor),
            Self::Pipeline => Some(spec.pipeline),
            Self::MicroBatchMax => spec.micro_batch_max,
            Self::Data => Some(spec.data),
            Self::DataStartRank => Some(spec.data_start_rank),
            Self::DataLocal => spec.data_local,
            Self::DataRank => spec.data_rank,
            Self::PrefillContext => Some(spec.prefill_context),
            Self::DecodeContext => Some(spec.decode_context),
            Self::KvInterleaveTokens => Some(spec.kv_interleave_tokens),
            Self::AttentionData => Some(spec.attention_data),
            Self::AttentionTensor => spec.attention_tensor,
            Self::AttentionContext => spec.attention_context,
            Self::ExpertWithin => match spec.expert {
                ExpertParallel::Within(width) => Some(width),
                _ => None,
            },
            Self::MoeTensor => spec.moe_tensor,
            Self::MoeData => Some(spec.moe_data),
            Self::MoeCluster => Some(spec.moe_cluster),
            Self::DenseTensor => spec.dense_tensor,
            Self::MoeDenseTensor => spec.moe_dense_tensor,
            Self::HeadTensor => spec.head_tensor,
            Self::RedundantExperts => Some(spec.redundant_experts),
            Self::BalanceWindow => spec.expert_balance.map(|balance| balance.window_steps),
            Self::BalanceInterval => spec.expert_balance.map(|balance| balance.interval_steps),
        }
    }

    /// Sets the number to `value`.
    pub fn set(self, spec: &mut ParallelSpec, value: u32) {
        match self {
            Self::Tensor => spec.tensor = value,
            Self::Pipeline => spec.pipeline = value,
            Self::MicroBatchMax => spec.micro_batch_max = Some(value),
            Self::Data => spec.data = value,
            Self::DataStartRank => spec.data_start_rank = value,
            Self::DataLocal => spec.data_local = Some(value),
            Self::DataRank => spec.data_rank = Some(value),
            Self::PrefillContext => spec.prefill_context = value,
            Self::DecodeContext => spec.decode_context = value,
            Self::KvInterleaveTokens => spec.kv_interleave_tokens = value,
            Self::AttentionData => spec.attention_data = value,
            Self::AttentionTensor => spec.attention_tensor = Some(value),
            Self::AttentionContext => spec.attention_context = Some(value),
            Self::ExpertWithin => spec.expert = ExpertParallel::Within(value),
            Self::MoeTensor => spec.moe_tensor = Some(value),
            Self::MoeData => spec.moe_data = value,
            Self::MoeCluster => spec.moe_cluster = value,
            Self::DenseTensor => spec.dense_tensor = Some(value),
            Self::MoeDenseTensor => spec.moe_dense_tensor = Some(value),
            Self::HeadTensor => spec.head_tensor = Some(value),
            Self::RedundantExperts => spec.redundant_experts = value,
            Self::BalanceWindow => {
                spec.expert_balance.get_or_insert_default().window_steps = value;
            }
            Self::BalanceInterval => {
                spec.expert_balance.get_or_insert_default().interval_steps = value;
            }
        }
    }

    /// Leaves the number open, where a spec can.
    pub(super) fn leave_open(self, spec: &mut ParallelSpec) {
        match self {
            Self::AttentionTensor => spec.attention_tensor = None,
            Self::AttentionContext => spec.attention_context = None,
            Self::MoeTensor => spec.moe_tensor = None,
            _ => {}
        }
    }

    /// Returns whether 0 is an ordinary value of the number, which is then no width: a rank, a count of
    /// extras, or the replicas of a node that only has a front door.
    #[must_use]
    pub fn may_be_zero(self) -> bool {
        matches!(
            self,
            Self::DataStartRank | Self::DataLocal | Self::DataRank | Self::RedundantExperts
        )
    }

    /// Returns the number's key in TOML.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Pipeline => "pipeline",
            Self::MicroBatchMax => "micro_batch_max",
            Self::Data => "data",
            Self::DataStartRank => "data_start_rank",
            Self::DataLocal => "data_local",
            Self::DataRank => "data_rank",
            Self::PrefillContext => "prefill_context",
            Self::DecodeContext => "decode_context",
            Self::KvInterleaveTokens => "kv_interleave_tokens",
            Self::AttentionData => "attention_data",
            Self::AttentionTensor => "attention_tensor",
            Self::AttentionContext => "attention_context",
            Self::ExpertWithin => "expert.within",
            Self::MoeTensor => "moe_tensor",
            Self::MoeData => "moe_data",
            Self::MoeCluster => "moe_cluster",
            Self::DenseTensor => "dense_tensor",
            Self::MoeDenseTensor => "moe_dense_tensor",
            Self::HeadTensor => "head_tensor",
            Self::RedundantExperts => "redundant_experts",
            Self::BalanceWindow => "expert_balance.window_steps",
            Self::BalanceInterval => "expert_balance.interval_steps",
        }
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.name())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

// === impl Change ===

impl Change {
    /// Applies the change to `spec`.
    pub fn apply(self, spec: &mut ParallelSpec) {
        self.field.set(spec, self.value);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} = {}", self.field, self.value)
    }
}
