//! Mixture of experts: widths, placement, balance.

use super::Case;
use super::near::Divisors;
use super::table::Findings;

/// Extra physical experts that vLLM's logical-to-physical map has room for.
pub(super) const REDUNDANT_MAX: u32 = 1023;

pub(super) fn experts_need_moe(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    if case.facts?.moe {
        return None;
    }
    let spec = case.spec;
    let asked = if case.spreads_experts() {
        "expert parallelism"
    } else if spec.expert_balance.is_some() {
        "expert balancing"
    } else if spec.redundant_experts > 0 {
        "redundant experts"
    } else {
        return None;
    };
    out.push(format_args!("{asked} is asked of a dense model, which has no experts"));
    None
}

pub(super) fn experts_fit(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let ranks = case.expert_ranks.filter(|_| case.spreads_experts())?;
    for experts in &case.facts?.experts {
        let physical = experts.saturating_add(u64::from(case.spec.redundant_experts));
        if physical < ranks {
            out.push(format_args!("{ranks} ranks share {physical} experts: some would hold none"));
            return None;
        }
    }
    None
}

/// Checks that balancing moves experts between equal sets of slots.
pub(super) fn physical_experts_divide(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    case.spec.expert_balance?;
    experts_divide(case, out)
}

/// Checks that every rank holds equally many experts; redundant experts fill the gaps.
pub(super) fn experts_divide(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let ranks = case.expert_ranks.filter(|_| case.spreads_experts())?;
    let redundant = case.spec.redundant_experts;
    for experts in &case.facts?.experts {
        let physical = experts.saturating_add(u64::from(redundant));
        // Too few is `experts-fit`.
        if physical >= ranks && physical % ranks != 0 {
            out.push(format_args!(
                "{experts} experts and {redundant} redundant ones make {physical}, which {ranks} \
                 ranks cannot hold evenly ({physical} divides by {})",
                Divisors(physical)
            ));
            return None;
        }
    }
    None
}

pub(super) fn redundant_needs_balance(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let redundant = case.spec.redundant_experts;
    if redundant > 0 && case.spec.expert_balance.is_none() {
        out.push(format_args!(
            "{redundant} redundant experts have no use without expert balancing"
        ));
    }
    None
}

pub(super) fn balance_needs_experts(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    case.spec.expert_balance?;
    if !case.spreads_experts() {
        out.push(format_args!("expert balancing needs expert parallelism, which is off"));
    }
    None
}

pub(super) fn balance_needs_ranks(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    case.spec.expert_balance?;
    let (stage, data) = (case.stage_ranks?, case.data?);
    if case.spreads_experts() && stage.saturating_mul(data) == 1 {
        out.push(format_args!(
            "expert balancing needs ranks to balance between: tensor, prefill_context and data \
             are all 1"
        ));
    }
    None
}

pub(super) fn redundancy_cap(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let redundant = case.spec.redundant_experts;
    if redundant > REDUNDANT_MAX {
        out.push(format_args!("{redundant} redundant experts exceed {REDUNDANT_MAX}"));
    }
    None
}

pub(super) fn dense_tensor_one(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let width = case.spec.moe_dense_tensor.filter(|width| *width > 1)?;
    out.push(format_args!("moe_dense_tensor is 1 or left open; {width} is neither"));
    None
}

pub(super) fn dense_tensor_one_or_all(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let width = u64::from(case.spec.moe_dense_tensor.filter(|width| *width > 1)?);
    let stage = case.stage_ranks?;
    if width != stage {
        out.push(format_args!(
            "moe_dense_tensor is 1, the whole stage ({stage}) or left open; {width} is none of them"
        ));
    }
    None
}

pub(super) fn cluster_alone(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (cluster, expert) = (case.moe_cluster?, case.moe_expert?);
    if cluster > 1 && expert > 1 {
        out.push(format_args!(
            "clusters of {cluster} ranks and experts spread over {expert} exclude each other"
        ));
    }
    None
}

/// Checks that expert widths other than the default are beside context parallelism only with Helix.
pub(super) fn experts_beside_context(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (expert, context, decode) = (case.moe_expert?, case.prefill_context?, case.decode_context?);
    if expert > 1 && context > 1 && decode == 1 {
        out.push(format_args!(
            "experts spread over {expert} ranks beside a context of {context} work with Helix only"
        ));
    }
    None
}

pub(super) fn moe_data_context(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (data, context) = (case.moe_data?, case.prefill_context?);
    if data > 1 && data != context {
        out.push(format_args!(
            "moe_data {data} differs from the context width {context}; it may be 1"
        ));
    }
    None
}

pub(super) fn moe_data_pipeline(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (data, stages) = (case.moe_data?, case.pipeline?);
    if data > 1 && stages > 1 {
        out.push(format_args!("moe_data {data} and {stages} pipeline stages exclude each other"));
    }
    None
}

pub(super) fn moe_data_experts(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (data, expert, stage) = (case.moe_data?, case.moe_expert?, case.stage_ranks?);
    let product = data.saturating_mul(expert);
    if data > 1 && product > stage {
        out.push(format_args!(
            "moe_data {data} × experts over {expert} = {product} exceeds the {stage} ranks of a \
             stage"
        ));
    } else if data > 1 && expert > 1 && product != stage {
        out.push(format_args!(
            "moe_data {data} × experts over {expert} = {product} leaves {stage} ranks partly \
             unused: the product must be {stage}"
        ));
    }
    None
}
