//! The input of a rule: a layout and a model, with the numbers that a rule can count with.

use std::collections::BTreeSet;

use playhouse_types::{Attention, ExpertParallel, FeedForward, ParallelSpec};

use crate::{ModelShape, WeightType, Widths};

use super::Field;

/// The distinct sizes of a model, over its layers.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) layers: u64,
    pub(crate) vocab: u64,
    /// Query heads and, except for latent attention, KV heads.
    pub(crate) heads: BTreeSet<(u64, Option<u64>)>,
    /// Widths of the dense feed-forward layers.
    pub(crate) dense_inner: BTreeSet<u64>,
    /// Widths inside one expert.
    pub(crate) expert_inner: BTreeSet<u64>,
    /// Logical experts of a layer.
    pub(crate) experts: BTreeSet<u64>,
    /// Groups of experts that the router picks first.
    pub(crate) expert_groups: u64,
    /// Whether some layer is a mixture of experts.
    pub(crate) moe: bool,
    /// Whether every layer has latent attention.
    pub(crate) latent: bool,
    /// Outputs of a projection that share a scale.
    pub(crate) scale_rows: Option<u64>,
}

/// A layout and a model. A width is `None` when a rule cannot count with it: the width is zero, or derived
/// from factors that do not match (**PL-3**).
#[derive(Clone, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) spec: &'a ParallelSpec,
    pub(crate) facts: Option<&'a Facts>,
    pub(crate) block_tokens: u32,
    pub(crate) tensor: Option<u64>,
    pub(crate) pipeline: Option<u64>,
    pub(crate) data: Option<u64>,
    pub(crate) prefill_context: Option<u64>,
    pub(crate) decode_context: Option<u64>,
    /// `tensor * prefill_context`.
    pub(crate) stage_ranks: Option<u64>,
    /// Ranks that split the dense layers of this model.
    pub(crate) dense_tensor: Option<u64>,
    pub(crate) attention_data: Option<u64>,
    pub(crate) attention_context: Option<u64>,
    pub(crate) attention_tensor: Option<u64>,
    pub(crate) moe_data: Option<u64>,
    /// Width of the expert group within a stage.
    pub(crate) moe_expert: Option<u64>,
    pub(crate) moe_tensor: Option<u64>,
    /// Ranks that split one expert: `moe_tensor`, over all replicas in vLLM's sense.
    pub(crate) slice_ranks: Option<u64>,
    pub(crate) moe_cluster: Option<u64>,
    /// Ranks that share one set of experts: `moe_expert`, over all replicas in vLLM's sense.
    pub(crate) expert_ranks: Option<u64>,
    /// Product of the attention widths, when all are countable.
    pub(crate) attention_product: Option<u64>,
    /// Product of the expert widths, when all are countable.
    pub(crate) moe_product: Option<u64>,
}

// === impl Facts ===

impl Facts {
    pub(crate) fn of(shape: &ModelShape) -> Self {
        let mut facts = Self {
            layers: shape.spec.layers.len() as u64,
            vocab: shape.spec.vocab as u64,
            heads: BTreeSet::new(),
            dense_inner: BTreeSet::new(),
            expert_inner: BTreeSet::new(),
            experts: BTreeSet::new(),
            expert_groups: 1,
            moe: false,
            latent: true,
            scale_rows: match shape.weights {
                WeightType::Fp8 { block: Some((rows, _)) } if rows > 0 => Some(rows),
                _ => None,
            },
        };
        for layer in &shape.spec.layers {
            match layer.attention {
                Attention::Gqa(gqa) => {
                    facts.latent = false;
                    facts.heads.insert((gqa.heads as u64, Some(gqa.kv_heads as u64)));
                }
                Attention::Mla(mla) => {
                    facts.heads.insert((mla.heads as u64, None));
                }
            }
            match layer.feed_forward {
                FeedForward::Dense(dense) => {
                    facts.dense_inner.insert(dense.inner as u64);
                }
                FeedForward::Moe(moe) => {
                    facts.moe = true;
                    facts.experts.insert(moe.experts as u64);
                    facts.expert_inner.insert(moe.inner as u64);
                    facts.expert_groups = facts.expert_groups.max(moe.groups as u64);
                }
            }
        }
        facts
    }

    /// Returns the query and KV heads of the layers without latent attention.
    pub(crate) fn grouped_heads(&self) -> impl Iterator<Item = (u64, u64)> {
        self.heads.iter().filter_map(|(heads, kv)| kv.filter(|kv| *kv > 0).map(|kv| (*heads, kv)))
    }
}

// === impl Case ===

impl<'a> Case<'a> {
    pub(crate) fn of(spec: &'a ParallelSpec, facts: Option<&'a Facts>, block_tokens: u32) -> Self {
        let widths = Widths::of(spec);
        let zero = |field: Field| field.get(spec) == Some(0);
        let attention_broken = [Field::AttentionData, Field::AttentionTensor]
            .into_iter()
            .chain([Field::AttentionContext])
            .any(zero);
        let moe_broken = [Field::MoeData, Field::ExpertWithin, Field::MoeTensor, Field::MoeCluster]
            .into_iter()
            .any(zero);
        let stage_ranks = product([countable(spec.tensor), countable(spec.prefill_context)]);
        let data = countable(spec.data);
        let sound = |width: u32, broken: bool| {
            countable(width).filter(|_| !broken && stage_ranks.is_some())
        };
        let attention = |width| sound(width, attention_broken);
        let moe = |width| sound(width, moe_broken);
        let of_moe = spec.moe_dense_tensor.filter(|_| facts.is_some_and(|facts| facts.moe));
        let dense_tensor = of_moe.or(spec.dense_tensor).unwrap_or(spec.tensor);
        let mut case = Self {
            spec,
            facts,
            block_tokens,
            tensor: countable(spec.tensor),
            pipeline: countable(spec.pipeline),
            data,
            prefill_context: countable(spec.prefill_context),
            decode_context: countable(spec.decode_context),
            stage_ranks,
            dense_tensor: countable(dense_tensor),
            attention_data: attention(widths.attention_data),
            attention_context: attention(widths.attention_context),
            attention_tensor: attention(widths.attention_tensor),
            moe_data: moe(widths.moe_data),
            moe_expert: moe(widths.moe_expert),
            moe_tensor: moe(widths.moe_tensor),
            moe_cluster: moe(widths.moe_cluster),
            expert_ranks: None,
            slice_ranks: None,
            attention_product: None,
            moe_product: None,
        };
        case.attention_product =
            product([case.attention_data, case.attention_context, case.attention_tensor]);
        case.moe_product =
            product([case.moe_data, case.moe_expert, case.moe_tensor, case.moe_cluster]);
        case.expert_ranks = match spec.expert {
            ExpertParallel::AcrossReplicas => product([case.moe_expert, data]),
            _ => case.moe_expert,
        };
        case.silence_mismatches();
        case.slice_ranks = match spec.expert {
            ExpertParallel::SplitAcrossReplicas => product([case.moe_tensor, data]),
            _ => case.moe_tensor,
        };
        case
    }

    /// Makes widths uncountable that are derived from factors that do not match.
    fn silence_mismatches(&mut self) {
        if self.attention_product != self.stage_ranks {
            self.attention_tensor = None;
            self.attention_context = None;
        }
        if self.moe_product != self.stage_ranks {
            self.moe_tensor = None;
        }
    }

    /// Returns whether whole experts are spread over ranks.
    pub(crate) fn spreads_experts(&self) -> bool {
        match self.spec.expert {
            ExpertParallel::Off | ExpertParallel::SplitAcrossReplicas => false,
            ExpertParallel::AcrossReplicas => true,
            ExpertParallel::Within(width) => width > 1,
        }
    }
}

/// Returns a width that a rule can count with.
fn countable(width: u32) -> Option<u64> {
    (width > 0).then_some(u64::from(width))
}

/// Returns the product of countable factors, at most `u64::MAX`.
fn product<const N: usize>(factors: [Option<u64>; N]) -> Option<u64> {
    factors.into_iter().try_fold(1_u64, |product, factor| Some(product.saturating_mul(factor?)))
}
