//! Sizes, factorisations and the pipeline.

use super::table::Findings;
use super::{Case, Field, RANKS_MAX};

/// Most stages of a partition that a message suggests: a reader does not read more.
const STAGES_SHOWN: u64 = 64;

pub(super) fn width_positive(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    for field in Field::ALL {
        if field.get(case.spec) == Some(0) && !field.may_be_zero() {
            out.push_for(field, format_args!("{field} is 0; it counts at least 1"));
        }
    }
    None
}

pub(super) fn partition_positive(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let partition = case.spec.pipeline_partition.as_deref()?;
    let empty = partition.iter().position(|layers| *layers == 0)?;
    out.push(format_args!("pipeline_partition gives stage {empty} no layer"));
    None
}

pub(super) fn rank_count(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (stage, stages, replicas) = (case.stage_ranks?, case.pipeline?, case.data?);
    let ranks = stage.saturating_mul(stages).saturating_mul(replicas);
    if ranks > RANKS_MAX {
        let most = if ranks == u64::MAX { "more than can be counted" } else { "too many" };
        out.push(format_args!(
            "data {replicas} × pipeline {stages} × {stage} ranks of a stage are {most}: at most \
             {RANKS_MAX} ranks are planned"
        ));
    }
    None
}

pub(super) fn attention_factors(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (stage, product) = (case.stage_ranks?, case.attention_product?);
    if product != stage {
        let (tensor, context) = (case.spec.tensor, case.spec.prefill_context);
        let data = case.spec.attention_data;
        let widths = crate::Widths::of(case.spec);
        out.push(format_args!(
            "a stage has tensor {tensor} × prefill_context {context} = {stage} ranks, but \
             attention_data {data} × attention_context {} × attention_tensor {} = {product}",
            widths.attention_context, widths.attention_tensor
        ));
        let open = [Field::AttentionTensor, Field::AttentionContext];
        or_open(case, out, &open);
    }
    None
}

pub(super) fn moe_factors(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (stage, product) = (case.stage_ranks?, case.moe_product?);
    if product != stage {
        let widths = crate::Widths::of(case.spec);
        out.push(format_args!(
            "a stage has {stage} ranks, but moe_data {} × experts over {} × moe_tensor {} × \
             moe_cluster {} = {product}",
            widths.moe_data, widths.moe_expert, widths.moe_tensor, widths.moe_cluster
        ));
        or_open(case, out, &[Field::MoeTensor]);
    }
    None
}

/// Suggests to leave a number open that is given and that, when open, makes the product right.
fn or_open(case: &Case<'_>, out: &mut Findings, fields: &[Field]) {
    for field in fields.iter().filter(|field| field.get(case.spec).is_some()) {
        let mut spec = case.spec.clone();
        field.leave_open(&mut spec);
        let after = Case::of(&spec, case.facts, case.block_tokens);
        let mended = match field {
            Field::MoeTensor => after.moe_product,
            _ => after.attention_product,
        };
        if mended == case.stage_ranks {
            return out.or(format_args!("leave {field} open and it becomes what is left"));
        }
    }
}

/// Suggests a partition: as even as possible, the remainder to the first stages.
fn or_even(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (stages, layers) = (case.pipeline?, case.facts.map(|facts| facts.layers)?);
    if stages > layers || stages > STAGES_SHOWN {
        return None;
    }
    let layers_of = |stage: u64| layers / stages + u64::from(stage < layers % stages);
    let even: Vec<String> = (0..stages).map(|stage| layers_of(stage).to_string()).collect();
    out.or(format_args!("pipeline_partition = [{}], or leave it open", even.join(", ")));
    None
}

pub(super) fn stages_fit(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (stages, layers) = (case.pipeline?, case.facts?.layers);
    if stages > layers {
        out.push(format_args!("{stages} stages cannot share {layers} layers: each needs one"));
    }
    None
}

pub(super) fn partition_length(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let partition = case.spec.pipeline_partition.as_ref()?;
    let (entries, stages) = (partition.len() as u64, case.pipeline?);
    if entries != stages {
        out.push(format_args!("pipeline_partition has {entries} entries for {stages} stages"));
        out.or(format_args!("give one entry per stage"));
        or_even(case, out);
    }
    None
}

pub(super) fn partition_sum(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let partition = case.spec.pipeline_partition.as_ref()?;
    let layers = case.facts?.layers;
    let sum: u64 = partition.iter().map(|layers| u64::from(*layers)).sum();
    if sum != layers {
        let difference = sum.abs_diff(layers);
        let word = if sum < layers { "short" } else { "over" };
        out.push(format_args!(
            "pipeline_partition hands out {sum} layers; the model has {layers} ({difference} {word})"
        ));
        out.or(format_args!("make the entries add up to {layers}"));
        or_even(case, out);
    }
    None
}
