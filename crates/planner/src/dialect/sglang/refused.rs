//! Flags that are no part of the layout and that SGLang refuses.

use playhouse_types::{ExpertParallel, ParallelSpec, Role};

use crate::Violation;
use crate::dialect::Key;
use crate::dialect::settings::Settings;

/// Returns `--tp-size`: the ranks of a stage.
fn stage(settings: &Settings) -> u32 {
    settings.size(Key::Tensor).unwrap_or(1)
}

/// Returns `--ep-size`, as the engine runs it.
fn expert_width(spec: &ParallelSpec) -> u32 {
    match spec.expert {
        ExpertParallel::Within(width) => width,
        _ => 1,
    }
}

pub(in crate::dialect) fn nodes(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let Some(nodes) = settings.size(Key::Nodes) else { return };
    if nodes == 0 {
        out.push(Violation::new("node-count", "there are 0 nodes".to_owned(), "--nnodes 1"));
        return;
    }
    let ranks = u64::from(stage(settings)).saturating_mul(u64::from(spec.pipeline));
    if !ranks.is_multiple_of(u64::from(nodes)) {
        out.push(Violation::new(
            "nodes-divide",
            format!("{ranks} ranks (tp × pp) cannot be spread evenly over {nodes} nodes"),
            format!("use a number of nodes that divides {ranks}"),
        ));
    }
    if nodes > 1 && spec.data > 1 {
        out.push(Violation::new(
            "nodes-data",
            format!("{} replicas cannot span {nodes} nodes", spec.data),
            "use --enable-dp-attention, or one server per node behind a router",
        ));
    }
    if let Some(rank) = settings.size(Key::NodeRank).filter(|rank| *rank >= nodes) {
        out.push(Violation::new(
            "node-rank",
            format!("node {rank} is not one of {nodes}"),
            format!("--node-rank is 0 to {}", nodes - 1),
        ));
    }
}

pub(in crate::dialect) fn context(settings: &Settings, _: &ParallelSpec, out: &mut Vec<Violation>) {
    let switched = settings.on(Key::ContextSwitch);
    if switched != settings.get(Key::ContextStrategy).is_some() {
        out.push(Violation::new(
            "context-strategy",
            "--enable-prefill-cp and --cp-strategy belong together; one is missing".to_owned(),
            "--enable-prefill-cp --cp-strategy zigzag (or interleave)",
        ));
    }
    let decode = settings.size(Key::DecodeContext).unwrap_or(1);
    let backend = settings.text(Key::DecodeContextBackend).unwrap_or("ag_rs");
    if backend != "ag_rs" && decode == 1 {
        out.push(Violation::new(
            "decode-context-backend",
            format!("{backend} merges a decode context, which is 1"),
            "raise --dcp-size, or drop --dcp-comm-backend",
        ));
    }
}

pub(in crate::dialect) fn heads(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let switched = settings.on(Key::AttentionDataSwitch) || spec.attention_data > 1;
    if settings.on(Key::DataLmHead) && !switched {
        out.push(Violation::new(
            "data-head",
            "a language-model head per attention group needs attention data parallelism".to_owned(),
            "--enable-dp-attention with --dp-size above 1",
        ));
    }
    if !settings.on(Key::LmHeadAllToAll) {
        return;
    }
    let whole = spec.attention_data > 1
        && spec.attention_data == stage(settings)
        && spec.prefill_context == 1;
    if !whole || settings.on(Key::DataLmHead) {
        out.push(Violation::new(
            "head-all-to-all",
            format!(
                "the split language-model head needs as many attention groups ({}) as ranks of a \
                 stage ({}), no context ranks, and no --enable-dp-lm-head",
                spec.attention_data,
                stage(settings)
            ),
            "drop --enable-tp-lm-head-all-to-all",
        ));
    }
}

pub(in crate::dialect) fn expert_kernels(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let (width, stage) = (expert_width(spec), stage(settings));
    let runner = settings.text(Key::MoeRunner).unwrap_or("auto");
    let whole_or_none = ["flashinfer_cutlass", "flashinfer_cutedsl"];
    if whole_or_none.contains(&runner) && width != 1 && width != stage {
        out.push(Violation::new(
            "expert-kernels",
            format!(
                "the expert kernels {runner} spread experts over 1 or {stage} ranks, not {width}"
            ),
            format!("ep-size = {width} → 1 or {stage}"),
        ));
    }
    let fp8 = settings.text(Key::Quantization).is_some_and(|name| name.contains("fp8"));
    if runner == "cutlass" && fp8 && width != 1 {
        out.push(Violation::new(
            "expert-kernels",
            format!("the fp8 expert kernels {runner} do not spread experts (ep-size {width})"),
            "ep-size 1, or another --moe-runner-backend",
        ));
    }
    let mega = settings.text(Key::AllToAll) == Some("megamoe");
    if mega && spec.attention_data != stage {
        out.push(Violation::new(
            "megamoe-attention-data",
            format!(
                "megamoe needs one attention group per rank: {} for {stage} ranks",
                spec.attention_data
            ),
            format!("--dp-size {stage} --enable-dp-attention"),
        ));
    }
}

pub(in crate::dialect) fn weight_prefetch(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let width = settings.size(Key::WeightPrefetch).unwrap_or(1);
    if width <= 1 {
        return;
    }
    let mut refuse = |message: String, fix: &str| {
        out.push(Violation::new("weight-prefetch", message, fix));
    };
    if width != stage(settings) {
        let message = format!("prefetching over {width} ranks differs from tp {}", stage(settings));
        refuse(message, "make --dwdp-size equal --tp-size");
    }
    if spec.role == Role::Decode {
        refuse("prefetching is for prefill".to_owned(), "--disaggregation-mode prefill");
    }
    if spec.pipeline > 1 {
        refuse(
            format!("prefetching and {} stages exclude each other", spec.pipeline),
            "--pp-size 1",
        );
    }
    if spec.expert_balance.is_some() {
        refuse(
            "prefetching and expert balancing exclude each other".to_owned(),
            "drop --enable-eplb",
        );
    }
}

pub(in crate::dialect) fn balance(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let no_exchange = super::all_to_all(settings) == "none";
    if let Some(algorithm) = settings
        .text(Key::DispatchAlgorithm)
        .filter(|algorithm| no_exchange && ["static", "lp"].contains(algorithm))
    {
        out.push(Violation::new(
            "dispatch-algorithm",
            format!("dispatch {algorithm} differs from rank to rank, so it needs an all-to-all"),
            "--ep-dispatch-algorithm dynamic, or a --moe-a2a-backend",
        ));
    }
    if settings.get(Key::ElasticBackend).is_none() {
        return;
    }
    if spec.pipeline > 1 {
        out.push(Violation::new(
            "elastic-experts",
            format!("elastic experts and {} stages exclude each other", spec.pipeline),
            "--pp-size 1",
        ));
    }
    let policy = settings.text(Key::BalancePolicy).unwrap_or("auto");
    if spec.expert_balance.is_some()
        && !["auto", "elasticity_aware", "elasticity_aware_hierarchical"].contains(&policy)
    {
        out.push(Violation::new(
            "elastic-experts",
            format!("the balancing algorithm {policy} does not know lost ranks"),
            "--eplb-algorithm elasticity_aware",
        ));
    }
}

pub(in crate::dialect) fn roles(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let plain =
        spec.data == 1 && spec.attention_data == 1 && spec.pipeline == 1 && expert_width(spec) == 1;
    if settings.on(Key::RoleSwitch) && !plain {
        out.push(Violation::new(
            "role-switch",
            "only a server with tensor parallelism alone can change its role".to_owned(),
            "drop --enable-pd-role-switch, or dp, ep and pp",
        ));
    }
    if settings.on(Key::SplitMultiplex) && (spec.pipeline > 1 || spec.role != Role::Unified) {
        out.push(Violation::new(
            "split-multiplex",
            "multiplexing prefill and decode needs one stage and the role of both".to_owned(),
            "--pp-size 1 --disaggregation-mode null",
        ));
    }
}

pub(in crate::dialect) fn chunks(
    settings: &Settings,
    spec: &ParallelSpec,
    out: &mut Vec<Violation>,
) {
    let (Some(chunk), Some(page)) =
        (settings.tokens(Key::PrefillChunk), settings.size(Key::BlockTokens))
    else {
        return;
    };
    if spec.role != Role::Decode && page > 0 && !chunk.is_multiple_of(u64::from(page)) {
        out.push(Violation::new(
            "chunk-pages",
            format!("a prefill chunk of {chunk} tokens is not a multiple of pages of {page}"),
            format!(
                "--chunked-prefill-size {}",
                (chunk / u64::from(page)).max(1) * u64::from(page)
            ),
        ));
    }
}
