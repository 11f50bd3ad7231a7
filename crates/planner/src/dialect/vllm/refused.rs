//! Flags that are no part of the layout and that vLLM refuses.

use playhouse_types::{LoadBalancing, ParallelSpec};

use crate::Violation;
use crate::dialect::Key;
use crate::dialect::settings::Settings;
use crate::rules::either;

/// Backends whose expert traffic can overlap with a second micro-batch.
const DUAL_BATCH_BACKENDS: [&str; 3] = ["deepep_low_latency", "deepep_high_throughput", "nixl_ep"];
/// Backends that survive a lost replica.
const FAULT_TOLERANT_BACKENDS: [&str; 2] = ["deepep_low_latency", "nixl_ep"];
/// Micro-batches of `--enable-dbo`.
const DUAL: u32 = 2;

pub(in crate::dialect) fn balancing(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let modes = [Key::HybridBalancing, Key::ExternalBalancing, Key::MultiPortBalancing];
    let given: Vec<&str> = modes
        .into_iter()
        .filter(|key| settings.on(*key))
        .map(|key| settings.spelling(key))
        .collect();
    if given.len() > 1 {
        out.push(Violation::new(
            "one-balancing-mode",
            format!("{} name {} ways to spread requests", given.join(" and "), given.len()),
            format!("keep one: {}", either(&given)),
        ));
    } else if settings.on(Key::ExternalBalancing)
        && spec.data_rank.is_none()
        && spec.data_local.is_some_and(|local| local > 1)
    {
        // Several replicas without a rank are an external layout, but only behind several ports.
        out.push(Violation::new(
            "external-needs-rank",
            format!(
                "{} serves one replica, and {} does not say which",
                settings.spelling(Key::ExternalBalancing),
                settings.spelling(Key::DataLocal)
            ),
            "--data-parallel-rank, or --data-parallel-multi-port-external-lb for all of this node",
        ));
    } else if settings.on(Key::HybridBalancing) && settings.get(Key::DataRank).is_some() {
        out.push(Violation::new(
            "one-balancing-mode",
            format!(
                "{} means external load balancing, {} hybrid",
                settings.spelling(Key::DataRank),
                settings.spelling(Key::HybridBalancing)
            ),
            "drop one of them",
        ));
    }
}

pub(in crate::dialect) fn nodes(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let Some(nodes) = settings.size(Key::Nodes) else { return };
    let ranks = u64::from(spec.tensor)
        .saturating_mul(u64::from(spec.pipeline))
        .saturating_mul(u64::from(spec.prefill_context));
    let world = ranks.saturating_mul(u64::from(spec.data));
    if nodes == 0 {
        out.push(Violation::new("node-count", "there are 0 nodes".to_owned(), "--nnodes 1"));
        return;
    }
    if world > 0 && !world.is_multiple_of(u64::from(nodes)) {
        out.push(Violation::new(
            "nodes-divide",
            format!("{world} ranks cannot be spread evenly over {nodes} nodes"),
            format!("use a number of nodes that divides {world}"),
        ));
    }
    if let Some(rank) = settings.size(Key::NodeRank).filter(|rank| *rank >= nodes) {
        out.push(Violation::new(
            "node-rank",
            format!("node {rank} is not one of {nodes}"),
            format!("--node-rank is 0 to {}", nodes - 1),
        ));
    }
    if nodes == 1 {
        return;
    }
    if settings.text(Key::Executor) == Some("ray") {
        out.push(Violation::new(
            "nodes-executor",
            format!("{nodes} nodes are for the executors mp, uni and external_launcher, not ray"),
            "--distributed-executor-backend mp, or drop --nnodes: ray finds its nodes",
        ));
    }
    if spec.data > 1 && settings.text(Key::DataBackend) == Some("ray") {
        out.push(Violation::new(
            "nodes-data-backend",
            format!("{nodes} nodes are for replicas started by mp, not ray"),
            "--data-parallel-backend mp",
        ));
    }
}

pub(in crate::dialect) fn elastic_experts(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    if !settings.on(Key::ElasticExperts) {
        return;
    }
    let mut refuse = |message: String, fix: &str| {
        out.push(Violation::new("elastic-experts", message, fix));
    };
    if spec.expert_balance.is_none() {
        refuse("elastic experts need expert balancing".to_owned(), "--enable-eplb");
    }
    if spec.pipeline > 1 {
        let message = format!("elastic experts and {} stages exclude each other", spec.pipeline);
        refuse(message, "--pipeline-parallel-size 1");
    }
    if spec.load_balancing != LoadBalancing::Internal {
        refuse(
            "elastic experts need internal load balancing".to_owned(),
            "drop the external or hybrid load balancing",
        );
    }
    if let Some(servers) = settings.size(Key::ApiServers).filter(|servers| *servers > 1) {
        refuse(
            format!("elastic experts need one API server, not {servers}"),
            "--api-server-count 1",
        );
    }
    if let Some(most) = settings.size(Key::ElasticDataMax).filter(|most| *most < spec.data) {
        refuse(
            format!("at most {most} replicas is below the {} to start with", spec.data),
            "raise --elastic-ep-max-dp-size",
        );
    }
}

pub(in crate::dialect) fn fault_tolerance(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    if !settings.on(Key::FaultTolerance) {
        return;
    }
    let mut refuse = |message: String, fix: &str| {
        out.push(Violation::new("fault-tolerance", message, fix));
    };
    if spec.load_balancing != LoadBalancing::External {
        refuse(
            "fault tolerance needs external load balancing".to_owned(),
            "--data-parallel-external-lb or --data-parallel-rank",
        );
    }
    if let Some(servers) = settings.size(Key::ApiServers).filter(|servers| *servers > 1) {
        refuse(
            format!("fault tolerance needs one API server, not {servers}"),
            "--api-server-count 1",
        );
    }
    let backend = settings.text(Key::AllToAll).unwrap_or("allgather_reducescatter");
    if !FAULT_TOLERANT_BACKENDS.contains(&backend) {
        refuse(
            format!("the all-to-all backend {backend} does not survive a lost replica"),
            "--all2all-backend deepep_low_latency or nixl_ep",
        );
    }
}

pub(in crate::dialect) fn dual_batch(
    settings: &Settings,
    _: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let batches = match settings.size(Key::MicroBatches) {
        Some(batches) if batches > 0 => batches,
        _ if settings.on(Key::DualBatch) => DUAL,
        _ => return,
    };
    let backend = settings.text(Key::AllToAll).unwrap_or("allgather_reducescatter");
    if !DUAL_BATCH_BACKENDS.contains(&backend) {
        out.push(Violation::new(
            "dual-batch-backend",
            format!("the all-to-all backend {backend} cannot overlap micro-batches"),
            format!("--all2all-backend {}", either(&DUAL_BATCH_BACKENDS)),
        ));
    }
    for key in [Key::DualBatchDecode, Key::DualBatchPrefill] {
        if let Some(fewest) = settings.size(key).filter(|fewest| *fewest < batches) {
            out.push(Violation::new(
                "dual-batch-threshold",
                format!("{} {fewest} is below the {batches} micro-batches", settings.spelling(key)),
                format!("{} {batches}", settings.spelling(key)),
            ));
        }
    }
}

pub(in crate::dialect) fn async_balance(
    settings: &Settings,
    _: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    if !settings.on(Key::Balance) {
        return;
    }
    let in_step = matches!(
        settings.get(Key::BalanceAsync).map(|given| &given.value),
        Some(crate::dialect::value::Value::Switch(false))
    );
    if in_step {
        return;
    }
    if let Some(policy) = settings.text(Key::BalancePolicy).filter(|policy| *policy != "default") {
        out.push(Violation::new(
            "async-balance",
            format!("the balancing policy {policy} does not work beside the steps"),
            "--eplb-config.use_async false, or the default policy",
        ));
    }
    let nccl = ["torch_nccl", "pynccl"];
    if let Some(carrier) =
        settings.text(Key::BalanceCommunicator).filter(|carrier| nccl.contains(carrier))
    {
        out.push(Violation::new(
            "async-balance",
            format!("{carrier} cannot move experts beside the steps: NCCL streams would conflict"),
            "--eplb-config.use_async false, or another communicator",
        ));
    }
}

pub(in crate::dialect) fn transfer(
    settings: &Settings,
    _: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    if settings.get(Key::KvConnector).is_some() && settings.get(Key::Role).is_none() {
        out.push(Violation::new(
            "transfer-role",
            "a KV connector is named and no role".to_owned(),
            "set kv_role to kv_producer, kv_consumer or kv_both",
        ));
    }
    let nixl = settings.text(Key::KvConnector).is_some_and(|name| name.starts_with("Nixl"));
    let apart = settings.text(Key::Role).is_some_and(|role| role != "kv_both");
    let decode = settings.size(Key::DecodeContext).unwrap_or(1);
    if nixl && apart && decode > 1 && settings.size(Key::Tensor).unwrap_or(1) != decode {
        out.push(Violation::new(
            "transfer-decode-context",
            format!(
                "NIXL transfers with a decode context of 1 or of the tensor width, not {decode}"
            ),
            "--decode-context-parallel-size 1",
        ));
    }
}

pub(in crate::dialect) fn step_budget(
    settings: &Settings,
    _: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let (tokens, requests) =
        (settings.tokens(Key::BatchTokensMax), settings.size(Key::RequestsMax));
    if let (Some(tokens), Some(requests)) = (tokens, requests)
        && tokens < u64::from(requests)
    {
        out.push(Violation::new(
            "step-budget",
            format!(
                "a step of {tokens} tokens cannot hold one token of each of {requests} requests"
            ),
            format!("--max-num-batched-tokens {requests}"),
        ));
    }
    let whole = matches!(
        settings.get(Key::ChunkedPrefill).map(|given| &given.value),
        Some(crate::dialect::value::Value::Switch(false))
    );
    if let (true, Some(tokens), Some(context)) =
        (whole, tokens, settings.tokens(Key::ContextTokens))
        && tokens < context
    {
        out.push(Violation::new(
            "step-budget",
            format!("a step of {tokens} tokens cannot hold a prompt of up to {context} at once"),
            "turn chunked prefill on, or raise --max-num-batched-tokens",
        ));
    }
}
