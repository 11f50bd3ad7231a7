//! Playhouse's own flags, shared by `plan` and `serve`: vLLM's spellings where the meaning is the
//! same, with SGLang's and TensorRT-LLM's as aliases. Nothing is rewritten, nothing implied.

use playhouse_types::{ExpertParallel, ExpertPlacement, LoadBalancing, Role};

use crate::Violation;

use super::settings::Settings;
use super::table::{Flag, Kind, Table};
use super::{Dialect, Key, Meaning, Problem, storage, vllm};

pub(super) static TABLE: Table = Table {
    dialect: Dialect::Native,
    engine: "Playhouse",
    programs: &["playhouse"],
    command: &["playhouse"],
    subcommands: &["plan", "serve"],
    images: &[],
    rankless: &[],
    bare_model: true,
    file_wins: false,
    flags: FLAGS,
    ignored: &[],
    variables: &[],
};

const ROLES: Kind = Kind::OneOf(&["unified", "prefill", "decode"]);
const BALANCING: Kind = Kind::OneOf(&["internal", "hybrid", "external"]);

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::new(&["model", "model-path"], Kind::Text, Key::Model),
    Flag::new(&["tensor-parallel-size", "-tp", "tp", "tp-size"], Kind::Size, Key::Tensor),
    Flag::new(&["pipeline-parallel-size", "-pp", "pp", "pp-size"], Kind::Size, Key::Pipeline),
    Flag::new(&["pipeline-partition", "pp-partition"], Kind::Sizes, Key::PipelinePartition),
    Flag::new(&["pp-max-micro-batch-size"], Kind::Size, Key::MicroBatchMax),
    Flag::new(&["data-parallel-size", "-dp", "dp", "dp-size"], Kind::Size, Key::Data),
    Flag::new(&["data-parallel-size-local", "-dpl"], Kind::Size, Key::DataLocal),
    Flag::new(&["data-parallel-start-rank", "-dpr"], Kind::Size, Key::DataStartRank),
    Flag::new(&["data-parallel-rank", "-dpn"], Kind::Size, Key::DataRank),
    Flag::new(&["load-balancing"], BALANCING, Key::Balancing),
    Flag::new(&["data-parallel-hybrid-lb", "-dph"], Kind::Switch, Key::HybridBalancing),
    Flag::new(&["data-parallel-external-lb", "-dpe"], Kind::Switch, Key::ExternalBalancing),
    Flag::new(&["prefill-context-parallel-size", "-pcp", "pcp", "cp-size", "context-parallel-size"], Kind::Size, Key::PrefillContext),
    Flag::new(&["decode-context-parallel-size", "-dcp", "dcp", "dcp-size"], Kind::Size, Key::DecodeContext),
    Flag::new(&["cp-kv-cache-interleave-size"], Kind::Size, Key::KvInterleave),
    Flag::new(&["attention-data-parallel-size", "attn-dp-size"], Kind::Size, Key::AttentionData),
    Flag::new(&["attention-tensor-parallel-size", "attn-tp-size"], Kind::Size, Key::AttentionTensor),
    Flag::new(&["attention-context-parallel-size", "attn-cp-size"], Kind::Size, Key::AttentionContext),
    Flag::new(&["enable-expert-parallel", "-ep"], Kind::Switch, Key::Experts),
    Flag::new(&["expert-parallel-size", "ep", "ep-size", "moe-ep-size"], Kind::Size, Key::ExpertWidth),
    Flag::new(&["moe-tensor-parallel-size", "moe-tp-size"], Kind::Size, Key::MoeTensor),
    Flag::new(&["moe-data-parallel-size", "moe-dp-size"], Kind::Size, Key::MoeData),
    Flag::new(&["moe-cluster-size", "cluster-size"], Kind::Size, Key::MoeCluster),
    Flag::new(&["moe-dense-tp-size"], Kind::Size, Key::MoeDenseTensor),
    Flag::new(&["head-tensor-parallel-size", "head-tp-size"], Kind::Size, Key::HeadTensor),
    Flag::new(&["expert-placement-strategy"], Kind::OneOf(&["linear", "round_robin"]), Key::Placement),
    Flag::new(&["enable-eplb"], Kind::Switch, Key::Balance),
    Flag::new(&["eplb-config"], Kind::Tree, Key::Balance),
    Flag::new(&["eplb-config.window_size"], Kind::Size, Key::BalanceWindow),
    Flag::new(&["eplb-config.step_interval", "eplb-rebalance-num-iterations"], Kind::Size, Key::BalanceInterval),
    Flag::new(&["eplb-config.num_redundant_experts", "ep-num-redundant-experts"], Kind::Size, Key::Redundant),
    Flag::new(&["role"], ROLES, Key::Role),
    Flag::new(&["nnodes", "-n"], Kind::Size, Key::Nodes),
    Flag::new(&["node-rank", "-r"], Kind::Size, Key::NodeRank),
    Flag::new(&["gpus-per-node"], Kind::Size, Key::DevicesPerNode),
    Flag::new(&["max-model-len", "context-length", "max-seq-len"], Kind::Tokens, Key::ContextTokens),
    Flag::new(&["dtype"], storage::DTYPES, Key::Dtype),
    Flag::new(&["quantization", "-q"], storage::QUANTIZATIONS, Key::Quantization),
    Flag::new(&["kv-cache-dtype"], storage::KV_TYPES, Key::KvDtype),
    Flag::new(&["max-num-seqs", "max-running-requests", "max-batch-size"], Kind::Size, Key::RequestsMax),
    Flag::new(&["max-num-batched-tokens", "max-num-tokens"], Kind::Tokens, Key::BatchTokensMax),
    Flag::new(&["gpu-memory-utilization"], Kind::Fraction, Key::MemoryFraction),
];

pub(super) fn interpret(settings: &Settings, meaning: &mut Meaning) {
    let mut spec = vllm::layout(settings);
    spec.micro_batch_max = settings.size(Key::MicroBatchMax);
    spec.attention_data = settings.size(Key::AttentionData).unwrap_or(1);
    spec.attention_tensor = settings.size(Key::AttentionTensor);
    spec.attention_context = settings.size(Key::AttentionContext);
    spec.moe_tensor = settings.size(Key::MoeTensor);
    spec.moe_data = settings.size(Key::MoeData).unwrap_or(1);
    spec.moe_cluster = settings.size(Key::MoeCluster).unwrap_or(1);
    spec.moe_dense_tensor = settings.size(Key::MoeDenseTensor);
    spec.head_tensor = settings.size(Key::HeadTensor);
    if let Some(width) = settings.size(Key::ExpertWidth) {
        contradict(settings, &[Key::Experts], Key::ExpertWidth, &mut meaning.problems);
        spec.expert = match width {
            1 => ExpertParallel::Off,
            width => ExpertParallel::Within(width),
        };
    }
    spec.expert_placement = match settings.text(Key::Placement) {
        Some("round_robin") => ExpertPlacement::RoundRobin,
        _ => ExpertPlacement::Linear,
    };
    spec.role = match settings.text(Key::Role) {
        Some("prefill") => Role::Prefill,
        Some("decode") => Role::Decode,
        _ => Role::Unified,
    };
    spec.load_balancing = balancing(settings, meaning);
    for key in [Key::BalanceWindow, Key::BalanceInterval] {
        if settings.get(key).is_some() && spec.expert_balance.is_none() {
            meaning.refused.push(Violation::new(
                "balance-off",
                format!("{} is set, and expert balancing is off", settings.spelling(key)),
                "--enable-eplb",
            ));
        }
    }
    if settings.size(Key::Nodes) == Some(0) {
        let message = "there are 0 nodes".to_owned();
        meaning.refused.push(Violation::new("node-count", message, "--nnodes 1"));
    }
    vllm::refuse_budgets(settings, &mut meaning.refused);
    meaning.spec = spec;
}

fn balancing(settings: &Settings, meaning: &mut Meaning) -> LoadBalancing {
    let ways = [
        (Key::HybridBalancing, LoadBalancing::Hybrid),
        (Key::ExternalBalancing, LoadBalancing::External),
    ];
    let named = match settings.text(Key::Balancing) {
        Some("hybrid") => Some(LoadBalancing::Hybrid),
        Some("external") => Some(LoadBalancing::External),
        Some(_) => Some(LoadBalancing::Internal),
        None => None,
    };
    let mut chosen = named.map(|way| (Key::Balancing, way));
    for (key, way) in ways.into_iter().filter(|(key, _)| settings.on(*key)) {
        match chosen {
            Some((other, old)) if old != way => {
                contradict(settings, &[other], key, &mut meaning.problems);
            }
            _ => chosen = Some((key, way)),
        }
    }
    chosen.map_or(LoadBalancing::Internal, |(_, way)| way)
}

/// Reports those of `others` that are given beside `key`.
fn contradict(settings: &Settings, others: &[Key], key: Key, problems: &mut Vec<Problem>) {
    for other in others {
        if let (Some(first), Some(second)) = (settings.get(*other), settings.get(key)) {
            problems.push(Problem::Contradiction {
                first: format!("{} {}", first.spelling, first.value),
                second: format!("{} {}", second.spelling, second.value),
            });
        }
    }
}
