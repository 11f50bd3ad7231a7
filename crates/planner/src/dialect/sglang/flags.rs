//! SGLang's words. Its YAML files have the same names, and `tp`, `dp`, `ep` for short.

use crate::dialect::table::{Flag, Kind};
use crate::dialect::{Key, storage};

const ALL_TO_ALL: Kind = Kind::OneOf(&[
    "none",
    "deepep",
    "deepep_v2",
    "mooncake",
    "nixl",
    "flashinfer",
    "flashinfer_megamoe",
    "mori",
    "pplx",
    "megamoe",
    "ascend_fuseep",
]);
const BALANCING: Kind = Kind::OneOf(&[
    "auto",
    "round_robin",
    "follow_bootstrap_room",
    "total_requests",
    "total_tokens",
]);
const DISPATCH: Kind = Kind::OneOf(&["static", "dynamic", "fake", "lp"]);

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    Flag::new(&["model-path", "model"], Kind::Text, Key::Model),
    Flag::new(&["config"], Kind::Text, Key::ConfigFile),
    Flag::new(&["tp-size", "tensor-parallel-size", "tp"], Kind::Size, Key::Tensor),
    Flag::new(&["pp-size", "pipeline-parallel-size", "pp"], Kind::Size, Key::Pipeline),
    Flag::new(&["pp-max-micro-batch-size"], Kind::Size, Key::MicroBatchMax),
    Flag::new(&["dp-size", "data-parallel-size", "dp"], Kind::Size, Key::Data),
    Flag::new(&["enable-dp-attention"], Kind::Switch, Key::AttentionDataSwitch),
    Flag::new(&["attn-dp-size", "attention-data-parallel-size"], Kind::Size, Key::AttentionData),
    Flag::new(&["attn-cp-size", "attention-context-parallel-size"], Kind::Size, Key::AttentionContext),
    Flag::new(&["enable-prefill-cp"], Kind::Switch, Key::ContextSwitch),
    Flag::new(&["cp-strategy"], Kind::OneOf(&["zigzag", "interleave"]), Key::ContextStrategy),
    Flag::new(&["dcp-size", "decode-context-parallel-size"], Kind::Size, Key::DecodeContext),
    Flag::new(&["dcp-comm-backend"], Kind::OneOf(&["ag_rs", "a2a", "fi_a2a"]), Key::DecodeContextBackend),
    Flag::new(&["ep-size", "expert-parallel-size", "ep"], Kind::Size, Key::ExpertWidth),
    Flag::new(&["enable-ep-moe"], Kind::Switch, Key::Experts)
        .old("earlier versions of SGLang had it; now --ep-size says how wide"),
    Flag::new(&["enable-deepep-moe"], Kind::Switch, Key::Experts)
        .old("earlier versions of SGLang had it; now --moe-a2a-backend deepep does that"),
    Flag::new(&["moe-dp-size", "moe-data-parallel-size"], Kind::Size, Key::MoeData),
    Flag::new(&["moe-dense-tp-size"], Kind::Size, Key::MoeDenseTensor),
    Flag::new(&["dwdp-size"], Kind::Size, Key::WeightPrefetch),
    Flag::new(&["moe-a2a-backend"], ALL_TO_ALL, Key::AllToAll),
    Flag::new(&["moe-runner-backend"], Kind::Text, Key::MoeRunner),
    Flag::new(&["ep-num-redundant-experts"], Kind::Size, Key::Redundant),
    Flag::new(&["enable-eplb"], Kind::Switch, Key::Balance),
    Flag::new(&["eplb-rebalance-num-iterations"], Kind::Size, Key::BalanceInterval),
    Flag::new(&["expert-distribution-recorder-buffer-size"], Kind::Size, Key::BalanceWindow),
    Flag::new(&["eplb-algorithm"], Kind::Text, Key::BalancePolicy),
    Flag::new(&["ep-dispatch-algorithm"], DISPATCH, Key::DispatchAlgorithm),
    Flag::new(&["elastic-ep-backend"], Kind::Text, Key::ElasticBackend),
    Flag::new(&["enable-dp-lm-head"], Kind::Switch, Key::DataLmHead),
    Flag::new(&["enable-tp-lm-head-all-to-all"], Kind::Switch, Key::LmHeadAllToAll),
    Flag::new(&["load-balance-method"], BALANCING, Key::BalanceInternally),
    Flag::new(&["disaggregation-mode"], Kind::OneOf(&["null", "prefill", "decode"]), Key::Role),
    Flag::new(&["enable-pdmux"], Kind::Switch, Key::SplitMultiplex),
    Flag::new(&["enable-pd-role-switch"], Kind::Switch, Key::RoleSwitch),
    Flag::new(&["nnodes"], Kind::Size, Key::Nodes),
    Flag::new(&["node-rank"], Kind::Size, Key::NodeRank),
    Flag::new(&["context-length"], Kind::Tokens, Key::ContextTokens),
    Flag::new(&["dtype"], storage::DTYPES, Key::Dtype),
    Flag::new(&["quantization"], storage::SGLANG_QUANTIZATIONS, Key::Quantization),
    Flag::new(&["kv-cache-dtype"], storage::SGLANG_KV_TYPES, Key::KvDtype),
    Flag::new(&["load-format"], storage::SGLANG_LOADERS, Key::LoadFormat),
    Flag::new(&["page-size"], Kind::Size, Key::BlockTokens),
    Flag::new(&["max-running-requests"], Kind::Size, Key::RequestsMax),
    Flag::new(&["max-prefill-tokens"], Kind::Tokens, Key::BatchTokensMax),
    Flag::new(&["chunked-prefill-size"], Kind::Tokens, Key::PrefillChunk),
    Flag::new(&["mem-fraction-static"], Kind::Fraction, Key::MemoryFraction),
];

pub(super) static VARIABLES: &[(&str, Key, Kind)] =
    &[("SGLANG_PP_LAYER_PARTITION", Key::PipelinePartition, Kind::Sizes)];
