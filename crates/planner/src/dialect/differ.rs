//! Settings about whose meaning the engines disagree, with the numbers of one layout.

use playhouse_types::{ExpertParallel, ExpertPlacement, ParallelSpec};

use crate::rules::Facts;
use crate::{ModelShape, Widths};

use super::table::MoreLayers;
use super::{Dialect, Note, NoteKind};

/// Returns what to know before the numbers of `spec`, read in `dialect`, are given to another engine. When
/// the model is given, includes how the engines treat its layers and experts.
#[must_use]
pub fn differences(dialect: Dialect, spec: &ParallelSpec, shape: Option<&ModelShape>) -> Vec<Note> {
    let facts = shape.map(Facts::of);
    let facts = facts.as_ref();
    let widths = Widths::of(spec);
    if widths.world() == 0 {
        return Vec::new();
    }
    [
        expert_width(dialect, spec, &widths, facts),
        data_width(dialect, spec, &widths),
        tensor_width(dialect, spec, &widths),
        rank_order(dialect, spec),
        expert_order(dialect, &widths, facts),
        uneven_stages(dialect, spec, facts),
        placement(dialect, spec, facts),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn note(about: &str, message: String) -> Option<Note> {
    Some(Note::new(NoteKind::Differs, about, message))
}

fn expert_width(
    dialect: Dialect,
    spec: &ParallelSpec,
    widths: &Widths,
    facts: Option<&Facts>,
) -> Option<Note> {
    if facts.is_some_and(|facts| !facts.moe) {
        return None;
    }
    let stage = widths.stage_ranks;
    let across = u64::from(spec.data) * u64::from(stage);
    match spec.expert {
        ExpertParallel::AcrossReplicas => note(
            "expert width",
            format!(
                "experts are spread over data {} × prefill_context {} × tensor {} = {across} ranks \
                 of each stage (vLLM); SGLang's ep-size and TensorRT-LLM's moe_ep_size count ranks \
                 inside one replica, at most {stage} here",
                spec.data, spec.prefill_context, spec.tensor
            ),
        ),
        ExpertParallel::Within(width) => note(
            "expert width",
            format!(
                "experts are spread over {width} of the {stage} ranks of a stage (SGLang, \
                 TensorRT-LLM); vLLM has no such number, its expert parallelism would span {across}"
            ),
        ),
        ExpertParallel::SplitAcrossReplicas => note(
            "expert width",
            format!(
                "each expert is split over data {} × prefill_context {} × tensor {} = {across} \
                 ranks of each stage (vLLM); SGLang and TensorRT-LLM split it inside a replica, \
                 over at most {stage} here",
                spec.data, spec.prefill_context, spec.tensor
            ),
        ),
        ExpertParallel::Off if dialect == Dialect::Vllm && spec.data > 1 => note(
            "expert width",
            format!(
                "without expert parallelism vLLM splits each expert over the ranks of all replicas \
                 (data {} × {stage} = {across}); here each replica splits its own experts over \
                 {stage}",
                spec.data
            ),
        ),
        ExpertParallel::Off => None,
    }
}

fn data_width(dialect: Dialect, spec: &ParallelSpec, widths: &Widths) -> Option<Note> {
    let (groups, replica) = (spec.attention_data, widths.replica_ranks());
    if groups > 1 {
        let separate = u64::from(groups).saturating_mul(replica);
        let alone = (widths.attention_tensor, widths.attention_context) == (1, 1);
        let same = if alone && spec.data == 1 {
            format!("; beside tensor-parallel-size 1 it is {replica}")
        } else {
            String::new()
        };
        return note(
            "data width",
            format!(
                "{groups} attention groups share the {replica} ranks of a replica (SGLang's \
                 dp-size with --enable-dp-attention, TensorRT-LLM's enable_attention_dp); beside \
                 tensor-parallel-size {}, vLLM's data-parallel-size {groups} is {separate} ranks{same}",
                spec.tensor
            ),
        );
    }
    (dialect == Dialect::Sglang && spec.data > 1).then(|| {
        Note::new(
            NoteKind::Differs,
            "data width",
            format!(
                "dp-size {} without --enable-dp-attention is {} whole replicas on {} ranks; with \
                 it, it would be {replica} ranks",
                spec.data,
                spec.data,
                widths.world()
            ),
        )
    })
}

fn tensor_width(dialect: Dialect, spec: &ParallelSpec, widths: &Widths) -> Option<Note> {
    let (tensor, context, stage) = (spec.tensor, spec.prefill_context, widths.stage_ranks);
    if context < 2 {
        return None;
    }
    let message = if dialect == Dialect::Sglang {
        format!(
            "tp-size {stage} counts the {context} context ranks in; vLLM and TensorRT-LLM call the \
             same stage tensor {tensor} × context {context}"
        )
    } else {
        format!(
            "tensor {tensor} × context {context} = {stage} ranks of a stage; SGLang's tp-size \
             counts both, so it is {stage} there"
        )
    };
    note("tensor width", message)
}

fn rank_order(dialect: Dialect, spec: &ParallelSpec) -> Option<Note> {
    let (tensor, context) = (spec.tensor, spec.prefill_context);
    (dialect == Dialect::TensorRtLlm && tensor > 1 && context > 1).then(|| {
        Note::new(
            NoteKind::Differs,
            "rank order",
            format!(
                "TensorRT-LLM counts context ranks fastest: ranks 0 to {} are one context group; \
                 here ranks 0 to {} are one tensor group",
                context - 1,
                tensor - 1
            ),
        )
    })
}

/// Notes which ranks of a stage share an expert where experts are spread and split: TensorRT-LLM takes
/// `tp_rank % moe_ep` for the expert's share and `tp_rank / moe_ep` for the slice.
fn expert_order(dialect: Dialect, widths: &Widths, facts: Option<&Facts>) -> Option<Note> {
    let (spread, slices) = (widths.moe_expert, widths.moe_tensor);
    let dense = facts.is_some_and(|facts| !facts.moe);
    if dialect != Dialect::TensorRtLlm || spread < 2 || slices < 2 || dense {
        return None;
    }
    note(
        "expert order",
        format!(
            "TensorRT-LLM counts the {spread} shares of the experts fastest: tp ranks 0 and \
             {spread} are two slices of the same experts; here, and in SGLang, those are ranks 0 \
             and 1: the sizes are the same, the groups are not"
        ),
    )
}

/// Notes which stages get the remaining layers when the number of stages does not divide the layers.
fn uneven_stages(dialect: Dialect, spec: &ParallelSpec, facts: Option<&Facts>) -> Option<Note> {
    let (layers, stages) = (facts?.layers, u64::from(spec.pipeline));
    let rest = layers.checked_rem(stages)?;
    if rest == 0 || layers < stages || spec.pipeline_partition.is_some() {
        return None;
    }
    let (theirs, first) = match dialect.table().more_layers {
        MoreLayers::First => return None,
        MoreLayers::BeforeLast => ("before the last", stages - 1 - rest),
        MoreLayers::Last => ("at the end", stages - rest),
    };
    if first == 0 {
        // The longer stages are the first ones there, too.
        return None;
    }
    note(
        "uneven stages",
        format!(
            "{layers} layers over {stages} stages are {} each and {rest} more: here those go one \
             each to the stages at the front, in {} to those {theirs}; a pipeline_partition says \
             it exactly",
            layers / stages,
            dialect.table().engine
        ),
    )
}

/// Notes that vLLM places experts linearly where round-robin would gain nothing.
fn placement(dialect: Dialect, spec: &ParallelSpec, facts: Option<&Facts>) -> Option<Note> {
    let groups = facts?.expert_groups;
    let falls_back = groups <= 1 || spec.redundant_experts > 0;
    (dialect == Dialect::Vllm && spec.expert_placement == ExpertPlacement::RoundRobin && falls_back)
        .then(|| {
            Note::new(
                NoteKind::Differs,
                "expert placement",
                format!(
                    "vLLM places experts round-robin only for models with groups of experts and \
                     without redundant ones; with {groups} groups and {} redundant it would place \
                     them linearly",
                    spec.redundant_experts
                ),
            )
        })
}
