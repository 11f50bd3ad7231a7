//! Sizes, factorisations and the pipeline.

use super::table::Findings;
use super::{Case, Field, RANKS_MAX};

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
    }
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
    }
    None
}
