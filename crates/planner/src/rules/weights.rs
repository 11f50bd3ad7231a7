//! Whether heads, feed-forward widths and vocabulary can be cut as asked.

use super::near::Divisors;
use super::table::Findings;
use super::{Case, Field};

/// Rows to which vLLM pads the vocabulary before it cuts it.
const VOCAB_PADDING: u64 = 64;

pub(super) fn heads_divide(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, facts) = (case.attention_tensor?, case.facts?);
    for (heads, _) in &facts.heads {
        if heads % width != 0 {
            out.push(format_args!(
                "{heads} query heads cannot be split over {width} ranks ({heads} divides by {})",
                Divisors(*heads)
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
            out.push(format_args!(
                "{kv} KV heads cannot be {act} {width} ranks: one number must divide the other"
            ));
            return None;
        }
    }
    None
}

pub(super) fn inner_divides(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, facts) = (case.dense_tensor?, case.facts?);
    for inner in &facts.dense_inner {
        if inner % width != 0 {
            out.push(format_args!(
                "the feed-forward width {inner} cannot be split over {width} ranks"
            ));
            return None;
        }
    }
    None
}

/// Checks that a dense layer is shared by whole tensor groups, or by the whole stage.
pub(super) fn dense_tensor_one_of_two(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let width = u64::from(case.spec.dense_tensor.filter(|width| *width > 0)?);
    let (tensor, stage) = (case.tensor?, case.stage_ranks?);
    if width != tensor && width != stage {
        out.push_for(
            Field::DenseTensor,
            format_args!(
                "dense_tensor is tensor ({tensor}) or the whole stage ({stage}); {width} is neither"
            ),
        );
    }
    None
}

/// Checks that the head is split over all ranks of a stage or over an attention group, or is whole on each
/// rank.
pub(super) fn head_tensor(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let width = u64::from(case.spec.head_tensor.filter(|width| *width > 0)?);
    let (tensor, group) = (case.tensor?, case.attention_tensor?);
    let groups = case.attention_data? > 1;
    if width != tensor && !(groups && (width == group || width == 1)) {
        let group =
            if groups { format!(", an attention group ({group}) or 1") } else { String::new() };
        out.push_for(
            Field::HeadTensor,
            format_args!("head_tensor is tensor ({tensor}){group}; {width} is not"),
        );
    }
    None
}

pub(super) fn expert_inner_divides(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (width, facts) = (case.slice_ranks?, case.facts?);
    for inner in &facts.expert_inner {
        if inner % width != 0 {
            out.push(format_args!("the expert width {inner} cannot be split over {width} ranks"));
            return None;
        }
    }
    None
}

/// Checks that weights in fp8 blocks are cut between blocks.
pub(super) fn scale_blocks(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let facts = case.facts?;
    let rows = facts.scale_rows?;
    let dense = facts.dense_inner.iter().map(|inner| ("feed-forward", *inner, case.dense_tensor));
    let expert = facts.expert_inner.iter().map(|inner| ("expert", *inner, case.slice_ranks));
    for (what, inner, width) in dense.chain(expert) {
        let Some(width) = width.filter(|width| *width > 1 && inner % width == 0) else { continue };
        let share = inner / width;
        if share % rows != 0 {
            out.push(format_args!(
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
            format_args!(
                "the vocabulary of {vocab}, padded to {padded}, cannot be split over {width} ranks"
            ),
        );
    }
    None
}
