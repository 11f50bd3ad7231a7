//! The rules that a layout must satisfy, natively and in each engine.
//!
//! - **PL-1** [`check`] never panics and always ends, whatever the sizes; equal input gives equal answers in
//!   the same order.
//! - **PL-2** every broken rule is reported at once, each exactly once, with the numbers.
//! - **PL-3** no cascade: a width of zero is reported once, and a rule that would have to count
//!   with it, or with a width derived from factors that do not match, stays silent.
//! - **PL-4** a [`Change`] that a violation offers, made alone, mends that rule and breaks no other.
//!
//! The native rules are the strictest that make sense: nothing is rewritten to make a layout fit. The rules
//! of an engine are its own, plus one violation for each part of the spec that the engine cannot express. Not
//! here: rules on flags that are no part of a layout (see [`dialect`](crate::dialect)).

use std::fmt;

use playhouse_types::ParallelSpec;
use serde::Serialize;

use crate::{ModelShape, RankMap, Serving};

mod attention;
mod case;
mod engine;
mod experts;
mod field;
mod near;
mod replicas;
mod table;
mod weights;
mod world;

pub(crate) use case::{Case, Facts};
pub use field::{Change, Field};
pub(crate) use near::either;

/// Most ranks that a pool may have: the largest map that is enumerated.
pub const RANKS_MAX: u64 = 65_536;

/// The engine whose rules a layout is checked against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleSet {
    /// Layouts that Playhouse can run.
    #[default]
    Native,
    /// Layouts that vLLM accepts.
    Vllm,
    /// Layouts that SGLang accepts.
    Sglang,
    /// Layouts that TensorRT-LLM accepts.
    TensorRtLlm,
}

/// The breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Stable name of the rule, such as `heads-divide`.
    pub rule: &'static str,
    /// Description of the breach, with the numbers.
    pub message: String,
    /// Description of the remedy: the nearest values that mend the rule, or what to leave out.
    pub fix: String,
    /// The nearest values, each a change that is enough by itself (**PL-4**).
    pub nearest: Vec<Change>,
}

/// Returns every violation of `rules` by `spec`, for the model `shape` if given; empty when the layout can
/// run.
#[must_use]
pub fn check(spec: &ParallelSpec, shape: Option<&ModelShape>, rules: RuleSet) -> Vec<Violation> {
    check_with(spec, shape, rules, Serving::default().block_tokens)
}

/// Runs [`check`] for KV blocks of `block_tokens` tokens.
pub(crate) fn check_with(
    spec: &ParallelSpec,
    shape: Option<&ModelShape>,
    rules: RuleSet,
    block_tokens: u32,
) -> Vec<Violation> {
    let facts = shape.map(Facts::of);
    let case = Case::of(spec, facts.as_ref(), block_tokens);
    let rules = table::rules_of(rules);
    let broken = table::broken(&case, &rules);
    let names: Vec<&str> = broken.iter().map(|finding| finding.rule.name).collect();
    broken
        .iter()
        .map(|finding| {
            let nearest = near::changes(&case, finding, &rules, &names);
            Violation {
                rule: finding.rule.name,
                message: finding.message.clone(),
                fix: near::fix(finding, spec, &nearest),
                nearest,
            }
        })
        .collect()
}

/// Returns the map of a layout that can run.
///
/// # Errors
/// Every native rule that `spec` breaks.
pub fn rank_map(spec: &ParallelSpec, shape: &ModelShape) -> Result<RankMap, Vec<Violation>> {
    checked_map(spec, shape, Serving::default().block_tokens)
}

/// Runs [`rank_map`] for KV blocks of `block_tokens` tokens.
pub(crate) fn checked_map(
    spec: &ParallelSpec,
    shape: &ModelShape,
    block_tokens: u32,
) -> Result<RankMap, Vec<Violation>> {
    let violations = check_with(spec, Some(shape), RuleSet::Native, block_tokens);
    if violations.is_empty() { Ok(RankMap::new(spec, shape)) } else { Err(violations) }
}

// === impl Violation ===

impl Violation {
    /// Returns a violation that no number mends.
    pub(crate) fn new(rule: &'static str, message: String, fix: impl Into<String>) -> Self {
        Self { rule, message, fix: fix.into(), nearest: Vec::new() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}; {}", self.rule, self.message, self.fix)
    }
}

// === impl RuleSet ===

impl RuleSet {
    /// All sets of rules.
    pub const ALL: [Self; 4] = [Self::Native, Self::Vllm, Self::Sglang, Self::TensorRtLlm];
}
