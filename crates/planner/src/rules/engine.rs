//! What each engine has no words for.

use playhouse_types::{ExpertBalance, ExpertParallel, ExpertPlacement, LoadBalancing};

use crate::Widths;

use super::Case;
use super::table::Findings;

pub(super) fn vllm(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    countable(case)?;
    let (spec, widths) = (case.spec, Widths::of(case.spec));
    let stage = widths.stage_ranks;
    if spec.attention_data > 1 {
        out.push(format_args!(
            "vLLM has no attention data parallelism inside a replica (attention_data {}); its \
             replicas (data) share experts instead",
            spec.attention_data
        ));
    } else if case.attention_tensor.is_some()
        && (widths.attention_tensor, widths.attention_context)
            != (spec.tensor, spec.prefill_context)
    {
        out.push(format_args!(
            "vLLM splits attention as tensor × prefill_context = {} × {}, not as \
             attention_tensor {} × attention_context {}",
            spec.tensor, spec.prefill_context, widths.attention_tensor, widths.attention_context
        ));
    }
    if let ExpertParallel::Within(width) = spec.expert
        && width > 1
        && (width != stage || spec.data > 1)
    {
        out.push(format_args!(
            "vLLM spreads experts over all ranks of a stage in all replicas ({}), not over {width}",
            u64::from(stage) * u64::from(spec.data)
        ));
    }
    if !case.spreads_experts()
        && spec.expert != ExpertParallel::SplitAcrossReplicas
        && spec.data > 1
        && case.facts.is_some_and(|facts| facts.moe)
    {
        out.push(format_args!(
            "vLLM splits each expert over all {} ranks of a stage in {} replicas (expert = \
             split_across_replicas), not over the {stage} of each",
            u64::from(stage) * u64::from(spec.data),
            spec.data
        ));
    }
    let whole = if case.spreads_experts() { 1 } else { stage };
    // A partial width was reported above, and what is left of the stage follows from it.
    let partial =
        matches!(spec.expert, ExpertParallel::Within(width) if width > 1 && width != stage);
    if !partial && (spec.moe_data, spec.moe_cluster, widths.moe_tensor) != (1, 1, whole) {
        out.push(format_args!(
            "vLLM splits each expert over the whole stage or not at all: no moe_data {}, \
             moe_cluster {} or moe_tensor {}",
            spec.moe_data, spec.moe_cluster, widths.moe_tensor
        ));
    }
    if spec.load_balancing == LoadBalancing::Hybrid
        && let Some(local) = spec.data_local.filter(|local| *local == 1 || *local == spec.data)
        && spec.data > 1
    {
        let instead = if local == 1 { "external" } else { "internal" };
        out.push(format_args!(
            "vLLM makes hybrid load balancing of {local} local replicas of {} {instead}",
            spec.data
        ));
    }
    no_dense_tensor(case, out, "vLLM");
    no_micro_batch(case, out, "vLLM");
    None
}

pub(super) fn sglang(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    countable(case)?;
    let spec = case.spec;
    one_front_door(case, out, "SGLang");
    let context = case.attention_context.filter(|context| Some(*context) != case.prefill_context);
    if let Some(context) = context {
        out.push(format_args!(
            "SGLang's context width is one number: attention_context {context} must equal \
             prefill_context {}",
            spec.prefill_context
        ));
    }
    let (tensor, stage) = (spec.tensor, u64::from(spec.tensor) * u64::from(spec.prefill_context));
    let dense = spec.dense_tensor.unwrap_or(tensor);
    if u64::from(dense) != stage {
        out.push(format_args!(
            "SGLang splits dense layers over the whole stage ({stage}), not over {dense}: \
             dense_tensor would be {stage}"
        ));
    }
    if spec.expert == ExpertParallel::AcrossReplicas && spec.data > 1 {
        out.push(format_args!(
            "SGLang's expert groups stay inside a replica; {} replicas cannot share experts",
            spec.data
        ));
    }
    if spec.expert == ExpertParallel::SplitAcrossReplicas && spec.data > 1 {
        out.push(format_args!(
            "SGLang splits an expert inside a replica; {} replicas cannot share the slices",
            spec.data
        ));
    }
    if spec.moe_cluster != 1 {
        out.push(format_args!("SGLang has no expert clusters (moe_cluster {})", spec.moe_cluster));
    }
    if spec.kv_interleave_tokens != 1 {
        out.push(format_args!(
            "SGLang has no interleave of the decode context (kv_interleave_tokens {})",
            spec.kv_interleave_tokens
        ));
    }
    linear_placement(case, out, "SGLang");
    None
}

pub(super) fn tensorrt_llm(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    countable(case)?;
    let (spec, widths) = (case.spec, Widths::of(case.spec));
    const NAME: &str = "TensorRT-LLM";
    if spec.data > 1 {
        out.push(format_args!(
            "{NAME} has no replicas inside a server ({} asked): start one server each behind its \
             orchestrator",
            spec.data
        ));
    }
    one_front_door(case, out, NAME);
    let context = spec.prefill_context;
    if spec.decode_context != 1 && spec.decode_context != context {
        out.push(format_args!(
            "{NAME} splits the KV cache over the whole context width (Helix, {context}) or not at \
             all, not over {}",
            spec.decode_context
        ));
    }
    if spec.kv_interleave_tokens != 1 && spec.decode_context == 1 {
        out.push(format_args!(
            "{NAME} knows an interleave for Helix only (kv_interleave_tokens {})",
            spec.kv_interleave_tokens
        ));
    }
    // Ulysses leaves the experts to the tensor ranks: each context rank has a copy.
    let ulysses = context > 1
        && spec.decode_context == 1
        && widths.attention_context == 1
        && spec.moe_data != 1;
    let copies = if ulysses { context } else { 1 };
    if spec.moe_data != copies {
        out.push(format_args!(
            "{NAME} keeps {copies} copies of the experts in a stage here, not moe_data {}",
            spec.moe_data
        ));
    }
    if spec.expert == ExpertParallel::AcrossReplicas && widths.moe_tensor != 1 {
        out.push(format_args!(
            "moe_tensor {} contradicts experts across all ranks",
            widths.moe_tensor
        ));
    }
    if spec.expert_balance.is_some_and(|balance| balance != ExpertBalance::default()) {
        out.push(format_args!("{NAME} has no window or interval of expert balancing"));
    }
    linear_placement(case, out, NAME);
    no_dense_tensor(case, out, NAME);
    no_micro_batch(case, out, NAME);
    None
}

/// What is zero is reported as that, and nothing is said about its meaning (**PL-3**).
fn countable(case: &Case<'_>) -> Option<()> {
    case.attention_product?;
    case.moe_product?;
    case.data?;
    case.decode_context?;
    (case.spec.kv_interleave_tokens > 0).then_some(())
}

fn one_front_door(case: &Case<'_>, out: &mut Findings, engine: &str) {
    let spec = case.spec;
    let whole = spec.data_local.is_none_or(|local| local == spec.data);
    if !whole || spec.data_start_rank != 0 || spec.data_rank.is_some() {
        out.push(format_args!(
            "{engine} starts all replicas from one place: no data_local, data_start_rank or \
             data_rank"
        ));
    }
    if spec.load_balancing != LoadBalancing::Internal {
        out.push(format_args!("{engine} has internal load balancing only"));
    }
}

fn linear_placement(case: &Case<'_>, out: &mut Findings, engine: &str) {
    if case.spec.expert_placement == ExpertPlacement::RoundRobin {
        out.push(format_args!("{engine} places experts linearly, not round-robin"));
    }
}

fn no_dense_tensor(case: &Case<'_>, out: &mut Findings, engine: &str) {
    let tensor = case.spec.tensor;
    if let Some(width) = case.spec.dense_tensor.filter(|width| *width != tensor) {
        out.push(format_args!(
            "{engine} splits dense layers over tensor ({tensor}), not over {width} (dense_tensor)"
        ));
    }
    if let Some(width) = case.spec.moe_dense_tensor {
        out.push(format_args!(
            "{engine} has no width of its own for dense layers (moe_dense_tensor {width})"
        ));
    }
}

fn no_micro_batch(case: &Case<'_>, out: &mut Findings, engine: &str) {
    if let Some(most) = case.spec.micro_batch_max {
        out.push(format_args!("{engine} has no limit of a micro-batch (micro_batch_max {most})"));
    }
}
