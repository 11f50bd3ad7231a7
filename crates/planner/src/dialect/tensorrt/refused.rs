//! Settings that are no part of the layout and that TensorRT-LLM refuses.

use playhouse_types::ParallelSpec;

use super::{ContextKind, Mapping};
use crate::Violation;
use crate::dialect::Key;
use crate::dialect::settings::Settings;

pub(in crate::dialect) fn attention_context(
    settings: &Settings,
    _: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let kind = ContextKind::of(settings);
    let context = Mapping::of(settings, kind).attention_context;
    if kind == ContextKind::Ulysses && context > 1 {
        out.push(Violation::new(
            "ulysses-attention-context",
            format!("Ulysses has no attention context of {context}"),
            format!("attn_cp_size = {context} → 1, or another cp_type"),
        ));
    }
}

pub(in crate::dialect) fn head(settings: &Settings, _: &ParallelSpec, out: &mut Vec<Violation>) {
    if settings.on(Key::TensorLmHead) && !settings.on(Key::AttentionDataSwitch) {
        out.push(Violation::new(
            "head-attention-data",
            "enable_lm_head_tp_in_adp without attention data parallelism".to_owned(),
            "enable_attention_dp: true, or drop it",
        ));
    }
}

pub(in crate::dialect) fn ranks(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let (tensor, pipeline, context) = (spec.tensor, spec.pipeline, spec.prefill_context);
    let ranks =
        u64::from(tensor).saturating_mul(u64::from(context)).saturating_mul(u64::from(pipeline));
    let world = settings.size(Key::WorldSize);
    if let Some(world) = world.filter(|world| u64::from(*world) != ranks) {
        out.push(Violation::new(
            "world-size",
            format!(
                "world_size {world} is not tp {tensor} × pp {pipeline} × cp {context} = {ranks}"
            ),
            format!("world_size = {world} → {ranks}"),
        ));
    }
    let world = world.map_or(ranks, u64::from);
    let groups = settings.on(Key::AttentionDataSwitch);
    if let Some(rank) = settings.size(Key::Rank).filter(|rank| u64::from(*rank) >= world && !groups)
    {
        out.push(Violation::new(
            "rank-range",
            format!("rank {rank} is not one of {world}"),
            format!("rank is 0 to {}", world.saturating_sub(1)),
        ));
    }
}
