//! The parts of a layout that each engine cannot express.

use playhouse_types::{ExpertBalance, ExpertParallel, ExpertPlacement, LoadBalancing};

use crate::Widths;

use super::table::Findings;
use super::{Case, Field, either};

pub(super) fn vllm(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    countable(case)?;
    let (spec, widths) = (case.spec, Widths::of(case.spec));
    let stage = widths.stage_ranks;
    if spec.attention_data > 1 {
        out.push_for(
            Field::AttentionData,
            format_args!(
                "vLLM has no attention data parallelism inside a replica (attention_data {}); its \
                 replicas (data) share experts instead",
                spec.attention_data
            ),
        );
        or_replicas(case, out);
    } else if case.attention_tensor.is_some()
        && (widths.attention_tensor, widths.attention_context)
            != (spec.tensor, spec.prefill_context)
    {
        out.push_for(
            Field::AttentionTensor,
            format_args!(
                "vLLM splits attention as tensor × prefill_context = {} × {}, not as \
             attention_tensor {} × attention_context {}",
                spec.tensor,
                spec.prefill_context,
                widths.attention_tensor,
                widths.attention_context
            ),
        );
    }
    if let ExpertParallel::Within(width) = spec.expert
        && width > 1
        && (width != stage || spec.data > 1)
    {
        out.push_for(Field::ExpertWithin, format_args!(
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
        out.or(format_args!("moe_data = 1, moe_cluster = 1 and moe_tensor open"));
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
        out.or(format_args!("load_balancing = {instead:?}"));
    }
    dense_tensor(case, out, "vLLM", spec.tensor);
    head_tensor(case, out, "vLLM", [spec.tensor; 2]);
    no_micro_batch(case, out, "vLLM");
    None
}

pub(super) fn sglang(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    countable(case)?;
    let spec = case.spec;
    one_front_door(case, out, "SGLang");
    let context = case.attention_context.filter(|context| Some(*context) != case.prefill_context);
    if let Some(context) = context {
        out.push_for(
            Field::AttentionContext,
            format_args!(
                "SGLang's context width is one number: attention_context {context} must equal \
             prefill_context {}",
                spec.prefill_context
            ),
        );
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
        out.push_for(
            Field::Data,
            format_args!(
                "SGLang's expert groups stay inside a replica; {} replicas cannot share experts",
                spec.data
            ),
        );
        if let Some(ranks) = one_rank_replicas(case) {
            out.or(format_args!(
                "--tp-size {ranks} --dp-size {ranks} --enable-dp-attention --ep-size {ranks} \
                 --moe-dense-tp-size 1 --enable-dp-lm-head keeps the same experts and requests \
                 on the same ranks"
            ));
        }
    }
    if spec.expert == ExpertParallel::SplitAcrossReplicas && spec.data > 1 {
        out.push(format_args!(
            "SGLang splits an expert inside a replica; {} replicas cannot share the slices",
            spec.data
        ));
    }
    if spec.moe_cluster != 1 {
        out.push_for(
            Field::MoeCluster,
            format_args!("SGLang has no expert clusters (moe_cluster {})", spec.moe_cluster),
        );
    }
    if spec.kv_interleave_tokens != 1 {
        out.push_for(
            Field::KvInterleaveTokens,
            format_args!(
                "SGLang has no interleave of the decode context (kv_interleave_tokens {})",
                spec.kv_interleave_tokens
            ),
        );
    }
    linear_placement(case, out, "SGLang");
    head_tensor(case, out, "SGLang", [tensor, Widths::of(spec).attention_tensor]);
    None
}

pub(super) fn tensorrt_llm(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    countable(case)?;
    let (spec, widths) = (case.spec, Widths::of(case.spec));
    const NAME: &str = "TensorRT-LLM";
    if spec.data > 1 {
        out.push_for(Field::Data, format_args!(
            "{NAME} has no replicas inside a server ({} asked): start one server each behind its \
             orchestrator",
            spec.data
        ));
        if let Some(ranks) = one_rank_replicas(case) {
            out.or(format_args!(
                "tp_size={ranks} moe_ep_size={ranks} enable_attention_dp=true keeps the same \
                 experts and requests on the same ranks"
            ));
        }
    }
    one_front_door(case, out, NAME);
    let context = spec.prefill_context;
    if spec.decode_context != 1 && spec.decode_context != context {
        out.push_for(Field::DecodeContext, format_args!(
            "{NAME} splits the KV cache over the whole context width (Helix, {context}) or not at \
             all, not over {}",
            spec.decode_context
        ));
    }
    if spec.kv_interleave_tokens != 1 && spec.decode_context == 1 {
        out.push_for(
            Field::KvInterleaveTokens,
            format_args!(
                "{NAME} knows an interleave for Helix only (kv_interleave_tokens {})",
                spec.kv_interleave_tokens
            ),
        );
    }
    // Ulysses leaves the experts to the tensor ranks: each context rank has a copy.
    let ulysses = context > 1
        && spec.decode_context == 1
        && widths.attention_context == 1
        && spec.moe_data != 1;
    let copies = if ulysses { context } else { 1 };
    if spec.moe_data != copies {
        out.push_for(
            Field::MoeData,
            format_args!(
                "{NAME} keeps {copies} copies of the experts in a stage here, not moe_data {}",
                spec.moe_data
            ),
        );
    }
    if spec.expert == ExpertParallel::AcrossReplicas && widths.moe_tensor != 1 {
        out.push(format_args!(
            "moe_tensor {} contradicts experts across all ranks",
            widths.moe_tensor
        ));
        out.or(format_args!("leave moe_tensor open"));
    }
    if spec.expert_balance.is_some_and(|balance| balance != ExpertBalance::default()) {
        out.push(format_args!("{NAME} has no window or interval of expert balancing"));
        let ExpertBalance { window_steps, interval_steps } = ExpertBalance::default();
        out.or(format_args!(
            "expert_balance.window_steps = {window_steps} and interval_steps = {interval_steps}"
        ));
    }
    linear_placement(case, out, NAME);
    let helix = spec.decode_context > 1;
    dense_tensor(case, out, NAME, if helix { widths.stage_ranks } else { spec.tensor });
    let alone = if spec.attention_data > 1 { 1 } else { spec.tensor };
    head_tensor(case, out, NAME, [spec.tensor, alone]);
    no_micro_batch(case, out, NAME);
    None
}

/// Suggests replicas: attention groups of one rank that share their experts are what vLLM calls replicas of
/// one rank.
fn or_replicas(case: &Case<'_>, out: &mut Findings) {
    let spec = case.spec;
    let alone = case.attention_tensor == Some(1) && case.attention_context == Some(1);
    let shared = case.moe_expert == case.stage_ranks && case.spreads_experts();
    if alone && shared && spec.data == 1 {
        out.or(format_args!(
            "--tensor-parallel-size 1 --data-parallel-size {} --enable-expert-parallel keeps the \
             same experts and requests on the same ranks",
            spec.attention_data
        ));
    }
}

/// Returns the replicas, where each is one rank of a stage and all share experts.
fn one_rank_replicas(case: &Case<'_>) -> Option<u64> {
    let shared = case.spec.expert == ExpertParallel::AcrossReplicas;
    case.data.filter(|_| shared && case.stage_ranks == Some(1))
}

/// Returns `None` when a number is zero: the zero is reported, and nothing is said about its meaning
/// (**PL-3**).
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
        out.or(format_args!("data_start_rank = 0, and leave data_local and data_rank open"));
    }
    if spec.load_balancing != LoadBalancing::Internal {
        out.push(format_args!("{engine} has internal load balancing only"));
        out.or(format_args!("load_balancing = \"internal\""));
    }
}

fn linear_placement(case: &Case<'_>, out: &mut Findings, engine: &str) {
    if case.spec.expert_placement == ExpertPlacement::RoundRobin {
        out.push(format_args!("{engine} places experts linearly, not round-robin"));
        out.or(format_args!("expert_placement = \"linear\""));
    }
}

/// Checks the dense width; `width` is the width over which the engine splits dense layers.
fn dense_tensor(case: &Case<'_>, out: &mut Findings, engine: &str, width: u32) {
    let asked = case.spec.dense_tensor.unwrap_or(case.spec.tensor);
    if asked != width {
        out.push_for(
            Field::DenseTensor,
            format_args!("{engine} splits dense layers over {width} ranks here, not over {asked}"),
        );
    }
    if let Some(width) = case.spec.moe_dense_tensor {
        out.push(format_args!(
            "{engine} has no width of its own for dense layers (moe_dense_tensor {width})"
        ));
        out.or(format_args!("leave moe_dense_tensor open"));
    }
}

fn head_tensor(case: &Case<'_>, out: &mut Findings, engine: &str, widths: [u32; 2]) {
    let mut known = widths.to_vec();
    known.dedup();
    if let Some(width) = case.spec.head_tensor.filter(|width| !widths.contains(width)) {
        out.push_for(
            Field::HeadTensor,
            format_args!(
                "{engine} splits the language-model head over {} ranks here, not over {width}",
                either(&known)
            ),
        );
    }
}

fn no_micro_batch(case: &Case<'_>, out: &mut Findings, engine: &str) {
    if let Some(most) = case.spec.micro_batch_max {
        out.push(format_args!("{engine} has no limit of a micro-batch (micro_batch_max {most})"));
        out.or(format_args!("leave micro_batch_max open"));
    }
}
