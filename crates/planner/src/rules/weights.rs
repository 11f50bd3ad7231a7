//! Whether heads, feed-forward widths and vocabulary can be cut as asked.

use super::near::divisors;
use super::table::Findings;
use super::{Case, Field};

/// Rows to which vLLM pads the vocabulary before it cuts it.
const VOCAB_PADDING: u64 = 64;

pub(super) fn heads_divide(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, facts) = (case.attention_tensor?, case.facts?);
    for (heads, _) in &facts.heads {
        if heads % width != 0 {
            out.push(format!(
                "{heads} query heads cannot be split over {width} ranks ({heads} divides by {})",
                divisors(*heads)
            ));
            return None;
        }
    }
    None
}

pub(super) fn kv_heads_divide(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, facts) = (case.attention_tensor?, case.facts?);
    for (_, kv) in facts.grouped_heads() {
        if kv % width != 0 && width % kv != 0 {
            let act = if width > kv { "copied evenly to" } else { "split over" };
            out.push(format!(
                "{kv} KV heads cannot be {act} {width} ranks: one number must divide the other"
            ));
            return None;
        }
    }
    None
}

/// Ranks that share the dense feed-forward: those of `tensor`; context ranks have other tokens.
pub(super) fn inner_divides(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    dense_inner(case, out, case.tensor?)
}

/// SGLang splits it over the whole stage.
pub(super) fn inner_divides_stage(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    dense_inner(case, out, case.stage_ranks?)
}

fn dense_inner(case: &Case<'_>, out: &mut Findings, width: u64) -> Option<()> {
    let facts = case.facts?;
    let width = match case.spec.moe_dense_tensor {
        Some(0) => return None,
        Some(width) if facts.moe => u64::from(width),
        _ => width,
    };
    for inner in &facts.dense_inner {
        if inner % width != 0 {
            out.push(format!(
                "the feed-forward width {inner} cannot be split over {width} ranks"
            ));
            return None;
        }
    }
    None
}

pub(super) fn expert_inner_divides(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, facts) = (case.moe_tensor?, case.facts?);
    for inner in &facts.expert_inner {
        if inner % width != 0 {
            out.push(format!("the expert width {inner} cannot be split over {width} ranks"));
            return None;
        }
    }
    None
}

/// Weights in fp8 blocks are cut between blocks.
pub(super) fn scale_blocks(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let facts = case.facts?;
    let rows = facts.scale_rows?;
    let dense = facts.dense_inner.iter().map(|inner| ("feed-forward", *inner, case.tensor));
    let expert = facts.expert_inner.iter().map(|inner| ("expert", *inner, case.moe_tensor));
    for (what, inner, width) in dense.chain(expert) {
        let Some(width) = width.filter(|width| *width > 1 && inner % width == 0) else { continue };
        let share = inner / width;
        if share % rows != 0 {
            out.push(format!(
                "the {what} width {inner} over {width} ranks is {share} each, which cuts through \
                 the fp8 scale blocks of {rows} rows"
            ));
            return None;
        }
    }
    None
}

pub(super) fn vocab_divides(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, vocab) = (case.tensor?, case.facts?.vocab);
    let padded = vocab.checked_next_multiple_of(VOCAB_PADDING)?;
    if padded % width != 0 {
        out.push_for(
            Field::Tensor,
            format!(
                "the vocabulary of {vocab}, padded to {padded}, cannot be split over {width} ranks"
            ),
        );
    }
    None
}
