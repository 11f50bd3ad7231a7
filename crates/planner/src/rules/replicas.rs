//! Replicas: which of them run here, and where requests are spread over them.

use playhouse_types::LoadBalancing;

use super::Case;
use super::table::Findings;

pub(super) fn data_local(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (local, data) = (case.spec.data_local?, case.data?);
    if u64::from(local) > data {
        out.push(format_args!("{local} replicas of this node exceed the {data} there are"));
    }
    None
}

pub(super) fn data_start(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (start, data) = (u64::from(case.spec.data_start_rank), case.data?);
    let local = u64::from(case.spec.data_local.unwrap_or(1));
    // Too many here is `data-local`.
    if start > 0 && local <= data && start + local > data {
        out.push(format_args!(
            "replicas {start} to {} of this node exceed the {data} there are (0 to {})",
            start + local.max(1) - 1,
            data - 1
        ));
    }
    None
}

pub(super) fn data_rank(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (rank, data) = (u64::from(case.spec.data_rank?), case.data?);
    if rank >= data {
        out.push(format_args!("replica {rank} is not one of {data} (0 to {})", data - 1));
    }
    None
}

pub(super) fn external_needs_data(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    if case.spec.load_balancing == LoadBalancing::External && case.data? == 1 {
        out.push(format_args!("external load balancing needs more than 1 replica"));
    }
    None
}

pub(super) fn external_needs_rank(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let external = case.spec.load_balancing == LoadBalancing::External;
    // Several replicas of a node each have a front door of their own.
    let several = case.spec.data_local.is_some_and(|local| local > 1);
    if external && !several && case.spec.data_rank.is_none() && case.data? > 1 {
        out.push(format_args!(
            "with external load balancing a process serves one replica, and data_rank does not \
             say which"
        ));
    }
    None
}

pub(super) fn external_local_one(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (local, _) = (case.spec.data_local?, case.spec.data_rank?);
    if case.spec.load_balancing == LoadBalancing::External && local != 1 {
        out.push(format_args!(
            "with external load balancing a process that names its replica (data_rank) serves that \
             one, not {local}"
        ));
    }
    None
}

pub(super) fn hybrid_needs_local(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    if case.spec.load_balancing == LoadBalancing::Hybrid && case.spec.data_local.unwrap_or(0) == 0 {
        out.push(format_args!(
            "hybrid load balancing needs to know the replicas of this node: data_local is open or 0"
        ));
    }
    None
}

pub(super) fn rank_needs_external(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let rank = case.spec.data_rank?;
    if case.spec.load_balancing != LoadBalancing::External {
        out.push(format_args!(
            "data_rank {rank} says that this process serves one replica; that is external load \
             balancing"
        ));
    }
    None
}

pub(super) fn external_needs_experts(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    if case.spec.load_balancing == LoadBalancing::External && !case.facts?.moe {
        out.push(format_args!(
            "external load balancing is for mixture-of-experts models; replicas of a dense model \
             have nothing to do with each other"
        ));
    }
    None
}

pub(super) fn data_beside_attention_data(case: &Case<'_>, out: &mut Findings) -> Option<()> {
    let (data, attention) = (case.data?, case.attention_data?);
    if data > 1 && attention > 1 {
        out.push(format_args!(
            "{data} replicas and {attention} attention groups in each exclude each other"
        ));
    }
    None
}
