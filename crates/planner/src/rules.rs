//! What a layout must satisfy, natively and in each engine.

use playhouse_types::ParallelSpec;

use crate::{ModelShape, Widths};

/// Whose rules to hold a layout against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleSet {
    /// What Playhouse can run.
    #[default]
    Native,
    /// What vLLM accepts.
    Vllm,
    /// What SGLang accepts.
    Sglang,
    /// What TensorRT-LLM accepts.
    TensorRtLlm,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Stable name of the rule, such as `heads-divide`.
    pub rule: &'static str,
    /// What is wrong, with the numbers.
    pub message: String,
    /// The nearest values that would do.
    pub fix: String,
}

/// Every violation of `rules` by `spec`, for the model `shape` where one is named; empty when the
/// layout can run.
#[must_use]
pub fn check(spec: &ParallelSpec, shape: Option<&ModelShape>, rules: RuleSet) -> Vec<Violation> {
    let _ = (shape, rules);
    let widths = Widths::of(spec);
    let mut violations = Vec::new();
    let attention = widths.attention_data * widths.attention_context * widths.attention_tensor;
    if attention != widths.stage_ranks {
        violations.push(Violation {
            rule: "attention-factors",
            message: format!("{attention} is not {}", widths.stage_ranks),
            fix: String::new(),
        });
    }
    violations
}
