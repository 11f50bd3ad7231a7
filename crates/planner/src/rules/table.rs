//! The rules of Playhouse and of each engine.

use std::fmt;

use super::{Case, Field, RuleSet, attention, engine, experts, replicas, weights, world};

/// A rule: the check that finds it broken, and the numbers to change.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    sets: &'static [RuleSet],
    /// Numbers that mend the rule, most likely first.
    pub(crate) fields: &'static [Field],
    /// Other changes that would mend the rule; empty when only the numbers do.
    pub(crate) hint: &'static str,
    check: Check,
}

type Check = fn(&Case<'_>, &mut Findings) -> Option<()>;

/// One breach of a rule.
struct Breach {
    message: String,
    /// Numbers that mend this breach, if not the rule's.
    fields: Option<&'static [Field]>,
    /// Other changes that would mend this breach; may be empty.
    hint: String,
}

/// The breaches that one rule found.
pub(crate) struct Findings {
    found: Vec<Breach>,
    /// Whether messages are dropped: thousands of candidates are tried for the nearest values.
    quiet: bool,
}

/// A broken rule.
pub(crate) struct Finding<'r> {
    pub(crate) rule: &'r Rule,
    pub(crate) message: String,
    /// Numbers that mend the rule, most likely first.
    pub(crate) fields: &'static [Field],
    /// Other changes that would mend the rule, shown before the hint of the rule; may be empty.
    pub(crate) hint: String,
}

const N: RuleSet = RuleSet::Native;
const V: RuleSet = RuleSet::Vllm;
const S: RuleSet = RuleSet::Sglang;
const T: RuleSet = RuleSet::TensorRtLlm;

use Field::{
    AttentionContext, AttentionData, AttentionTensor, Data, DataLocal, DataRank, DataStartRank,
    DecodeContext, DenseTensor, ExpertWithin, HeadTensor, KvInterleaveTokens, MoeCluster, MoeData,
    MoeDenseTensor, MoeTensor, Pipeline, PrefillContext, RedundantExperts, Tensor,
};

/// Writes a row as a sentence: name, rule set, check, numbers to change, other changes.
macro_rules! rules {
    ($($name:literal [$($set:ident)+] $check:path, [$($field:ident)*], $hint:literal;)+) => {
        &[$(Rule {
            name: $name,
            sets: &[$($set),+],
            check: $check,
            fields: &[$($field),*],
            hint: $hint,
        }),+]
    };
}

#[rustfmt::skip]
const RULES: &[Rule] = rules! {
    "width-positive" [N V S T] world::width_positive, [], "";
    "partition-positive" [N V S T] world::partition_positive, [], "give every stage a layer";
    "rank-count" [N V S T] world::rank_count, [Data Pipeline Tensor], "plan fewer ranks";
    "attention-factors" [N V S T] world::attention_factors, [AttentionTensor AttentionContext AttentionData Tensor], "";
    "moe-factors" [N V S T] world::moe_factors, [MoeTensor ExpertWithin MoeData MoeCluster Tensor], "";
    "stages-fit" [N V S T] world::stages_fit, [Pipeline], "";
    "partition-length" [N V S T] world::partition_length, [Pipeline], "";
    "partition-sum" [N V S T] world::partition_sum, [], "";

    "heads-divide" [N V S T] weights::heads_divide, [AttentionTensor Tensor AttentionData], "";
    "kv-heads-divide" [N V S T] weights::kv_heads_divide, [AttentionTensor Tensor AttentionData], "";
    "inner-divides" [N V S T] weights::inner_divides, [MoeDenseTensor DenseTensor Tensor], "";
    "expert-inner-divides" [N V S T] weights::expert_inner_divides, [MoeTensor ExpertWithin Tensor], "spread whole experts instead of splitting each";
    "scale-blocks" [N V S] weights::scale_blocks, [MoeTensor ExpertWithin Tensor], "spread whole experts, or use a checkpoint without block scales";
    "vocab-divides" [V] weights::vocab_divides, [Tensor], "";

    "decode-context-divides" [N V S] attention::decode_divides, [DecodeContext AttentionTensor Tensor], "";
    "decode-context-axis" [N V] attention::decode_axis, [DecodeContext], "";
    "decode-context-kv-heads" [N V] attention::decode_exceeds_kv_heads, [DecodeContext AttentionTensor Tensor], "";
    "decode-context-query-group" [N V] attention::decode_query_group, [DecodeContext], "";
    "decode-context-role" [N V] attention::decode_context_role, [DecodeContext], "serve prefill and decode together (role unified)";
    "interleave-block" [N V] attention::interleave_block, [KvInterleaveTokens], "";
    "decode-beside-prefill-context" [S] attention::decode_beside_prefill_context, [DecodeContext PrefillContext], "";
    "attention-data-all" [T] attention::attention_data_all, [AttentionData], "";
    "helix-latent" [T] attention::helix_latent, [DecodeContext], "";
    "helix-role" [T] attention::helix_role, [DecodeContext], "give it the role decode";

    "experts-need-moe" [N V] experts::experts_need_moe, [ExpertWithin], "leave the expert parameters out";
    "experts-fit" [N V S T] experts::experts_fit, [ExpertWithin Data Tensor], "";
    "physical-experts-divide" [V] experts::physical_experts_divide, [RedundantExperts], "";
    "experts-divide" [N] experts::experts_divide, [ExpertWithin RedundantExperts Data Tensor], "";
    "experts-divide" [S T] experts::experts_divide, [ExpertWithin RedundantExperts], "";
    "redundant-needs-balance" [V] experts::redundant_needs_balance, [RedundantExperts], "turn balancing on (expert_balance)";
    "balance-needs-experts" [N V S] experts::balance_needs_experts, [ExpertWithin], "turn expert parallelism on, or balancing off";
    "balance-needs-ranks" [N V S] experts::balance_needs_ranks, [Tensor Data], "turn balancing off";
    "redundancy-cap" [N V] experts::redundancy_cap, [RedundantExperts], "";
    "dense-tensor" [N V S T] weights::dense_tensor_one_of_two, [DenseTensor], "leave dense_tensor open and it is tensor";
    "head-tensor" [N V S T] weights::head_tensor, [HeadTensor], "leave head_tensor open and it is tensor";
    "dense-tensor" [N] experts::dense_tensor_one, [MoeDenseTensor], "";
    "dense-tensor" [S] experts::dense_tensor_one_or_all, [MoeDenseTensor], "";
    "cluster-alone" [N T] experts::cluster_alone, [MoeCluster ExpertWithin], "";
    "experts-beside-context" [T] experts::experts_beside_context, [ExpertWithin], "use Helix (decode_context as wide as the context)";
    "moe-data-context" [S] experts::moe_data_context, [MoeData], "";
    "moe-data-pipeline" [S] experts::moe_data_pipeline, [MoeData Pipeline], "";
    "moe-data-experts" [S] experts::moe_data_experts, [ExpertWithin MoeData], "";

    "data-local" [N V] replicas::data_local, [DataLocal Data], "";
    "data-start" [N V] replicas::data_start, [DataStartRank DataLocal Data], "";
    "data-rank" [N V] replicas::data_rank, [DataRank Data], "";
    "external-needs-data" [N V] replicas::external_needs_data, [Data], "use internal load balancing";
    "external-needs-rank" [N V] replicas::external_needs_rank, [], "say which replica this process serves (data_rank), or how many this node does (data_local)";
    "external-local-one" [N V] replicas::external_local_one, [DataLocal], "";
    "hybrid-needs-local" [N V] replicas::hybrid_needs_local, [], "say how many replicas are on this node (data_local)";
    "rank-needs-external" [N V] replicas::rank_needs_external, [], "make load_balancing external, or leave data_rank out";
    "external-needs-experts" [V] replicas::external_needs_experts, [], "start independent servers without data parallelism";
    "data-beside-attention-data" [S] replicas::data_beside_attention_data, [Data AttentionData], "start one server per replica";

    "not-expressible" [V] engine::vllm, [], "render for an engine that has it";
    "not-expressible" [S] engine::sglang, [], "render for an engine that has it";
    "not-expressible" [T] engine::tensorrt_llm, [], "render for an engine that has it";
};

/// Returns the rules of a set, in the order of the table.
pub(super) fn rules_of(set: RuleSet) -> Vec<&'static Rule> {
    RULES.iter().filter(|rule| rule.sets.contains(&set)).collect()
}

/// Returns every broken rule, in the order of the rules.
pub(super) fn broken(case: &Case<'_>, rules: &[&'static Rule]) -> Vec<Finding<'static>> {
    rules.iter().flat_map(|rule| rule.findings(case)).collect()
}

// === impl Rule ===

impl Rule {
    /// Returns every breach of the rule by `case`.
    pub(crate) fn findings(&'static self, case: &Case<'_>) -> Vec<Finding<'static>> {
        let found = self.run(case, false).into_iter();
        let finding = |Breach { message, fields, hint }| Finding {
            rule: self,
            message,
            fields: fields.unwrap_or(self.fields),
            hint,
        };
        found.map(finding).collect()
    }

    /// Returns how often `case` breaks the rule.
    pub(crate) fn count(&self, case: &Case<'_>) -> usize {
        self.run(case, true).len()
    }

    fn run(&self, case: &Case<'_>, quiet: bool) -> Vec<Breach> {
        let mut out = Findings { found: Vec::new(), quiet };
        (self.check)(case, &mut out);
        out.found
    }
}

// === impl Findings ===

impl Findings {
    /// Reports a breach that the rule's own numbers mend.
    pub(super) fn push(&mut self, message: fmt::Arguments<'_>) {
        self.add(message, None);
    }

    /// Reports a breach that one number mends.
    pub(super) fn push_for(&mut self, field: Field, message: fmt::Arguments<'_>) {
        let at = Field::ALL.iter().position(|other| *other == field);
        self.add(message, Some(at.map_or(&[], |at| &ALL_FIELDS[at..=at])));
    }

    /// Adds to the last breach what else mends it.
    pub(super) fn or(&mut self, hint: fmt::Arguments<'_>) {
        if let Some(last) = self.found.last_mut().filter(|_| !self.quiet) {
            last.hint = hint.to_string();
        }
    }

    fn add(&mut self, message: fmt::Arguments<'_>, fields: Option<&'static [Field]>) {
        let message = if self.quiet { String::new() } else { message.to_string() };
        self.found.push(Breach { message, fields, hint: String::new() });
    }
}

/// [`Field::ALL`], to borrow from.
static ALL_FIELDS: [Field; Field::ALL.len()] = Field::ALL;
