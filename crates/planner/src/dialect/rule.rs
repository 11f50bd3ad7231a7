//! Rules by which engines refuse several flags together, under the names that the tables give them.

use playhouse_types::ParallelSpec;
use serde::Deserialize;

use crate::Violation;

use super::settings::Settings;
use super::tables::Word;
use super::{native, sglang, tensorrt, vllm};

/// Checks the settings of a command, and the layout that they describe, against a rule of the engine.
type Refuse = fn(&Settings, &ParallelSpec, &mut Vec<Violation>);

/// Every rule with its name.
pub(super) const RULES: &[(Word, Refuse)] = &[
    ("balance-off", native::balance_off),
    ("node-count", native::node_count),
    ("step-budget", vllm::refused::step_budget),
    ("vllm-balancing", vllm::refused::balancing),
    ("vllm-nodes", vllm::refused::nodes),
    ("vllm-elastic-experts", vllm::refused::elastic_experts),
    ("vllm-fault-tolerance", vllm::refused::fault_tolerance),
    ("vllm-dual-batch", vllm::refused::dual_batch),
    ("vllm-async-balance", vllm::refused::async_balance),
    ("vllm-transfer", vllm::refused::transfer),
    ("sglang-nodes", sglang::refused::nodes),
    ("sglang-context", sglang::refused::context),
    ("sglang-heads", sglang::refused::heads),
    ("sglang-expert-kernels", sglang::refused::expert_kernels),
    ("sglang-weight-prefetch", sglang::refused::weight_prefetch),
    ("sglang-balance", sglang::refused::balance),
    ("sglang-roles", sglang::refused::roles),
    ("sglang-chunks", sglang::refused::chunks),
    ("tensorrt-attention-context", tensorrt::refused::attention_context),
    ("tensorrt-head", tensorrt::refused::head),
    ("tensorrt-ranks", tensorrt::refused::ranks),
];

/// A rule that a table names.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct NamedRule {
    pub(super) refuse: Refuse,
}

// === impl NamedRule ===

impl TryFrom<String> for NamedRule {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = RULES.iter().find(|(known, _)| *known == name);
        let (_, refuse) = found.ok_or_else(|| format!("{name}: there is no such rule"))?;
        Ok(Self { refuse: *refuse })
    }
}
