//! The weights of a layer, by their role.

use candle_core::Tensor;
use playhouse_layout::TensorRole;
use playhouse_types::{Attention, FeedForward, LayerSpec};

use super::{TensorsByRole, WeightsError};

/// Weights of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    /// `[hidden]`, before attention.
    pub(crate) attention_norm: Tensor,
    pub(crate) attention: GqaWeights,
    /// `[hidden]`, before the feed-forward block.
    pub(crate) feed_forward_norm: Tensor,
    pub(crate) feed_forward: DenseWeights,
}

/// Weights of grouped-query attention.
#[derive(Clone, Debug)]
pub(crate) struct GqaWeights {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) out: Linear,
    /// `[head_dim]`, with [`playhouse_types::Gqa::qk_norm`].
    pub(crate) query_norm: Option<Tensor>,
    pub(crate) key_norm: Option<Tensor>,
}

/// Weights of a dense feed-forward block.
#[derive(Clone, Debug)]
pub(crate) struct DenseWeights {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// A projection.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[out, in]`
    pub(crate) weight: Tensor,
    /// `[out]`; where inputs are cut, on the first rank only.
    pub(crate) bias: Option<Tensor>,
}

// === impl LayerWeights ===

impl LayerWeights {
    /// Builds the weights of layer `at` from all the tensors that its inventory lists.
    pub(super) fn of(
        at: usize,
        spec: &LayerSpec,
        mut tensors: TensorsByRole,
    ) -> Result<Self, WeightsError> {
        let unsupported = |kind| Err(WeightsError::Unsupported { layer: at, kind });
        if let Attention::Mla(_) = spec.attention {
            return unsupported("latent attention");
        }
        if let FeedForward::Moe(_) = spec.feed_forward {
            return unsupported("routed experts");
        }
        let mut linear = |weight, bias| Linear {
            weight: listed(&mut tensors, weight),
            bias: tensors.remove(&bias),
        };
        let feed_forward = DenseWeights {
            gate: linear(TensorRole::Gate, TensorRole::GateBias),
            up: linear(TensorRole::Up, TensorRole::UpBias),
            down: linear(TensorRole::Down, TensorRole::DownBias),
        };
        let attention = GqaWeights {
            query: linear(TensorRole::Query, TensorRole::QueryBias),
            key: linear(TensorRole::Key, TensorRole::KeyBias),
            value: linear(TensorRole::Value, TensorRole::ValueBias),
            out: linear(TensorRole::AttentionOut, TensorRole::AttentionOutBias),
            query_norm: tensors.remove(&TensorRole::QueryNorm),
            key_norm: tensors.remove(&TensorRole::KeyNorm),
        };
        Ok(Self {
            attention_norm: listed(&mut tensors, TensorRole::AttentionNorm),
            attention,
            feed_forward_norm: listed(&mut tensors, TensorRole::FeedForwardNorm),
            feed_forward,
        })
    }
}

/// Takes a tensor that every layer of its kind has.
fn listed(tensors: &mut TensorsByRole, role: TensorRole) -> Tensor {
    tensors.remove(&role).unwrap_or_else(|| panic!("the inventory lists {role:?}"))
}
