//! vLLM's words.

use crate::dialect::table::{Flag, Ignored, Kind};
use crate::dialect::{Key, storage};

const ROLES: Kind = Kind::OneOf(&["kv_producer", "kv_consumer", "kv_both"]);
const ALL_TO_ALL: Kind = Kind::OneOf(&[
    "allgather_reducescatter",
    "deepep_high_throughput",
    "deepep_low_latency",
    "deepep_v2",
    "mori_high_throughput",
    "mori_low_latency",
    "nixl_ep",
    "flashinfer_nvlink_two_sided",
    "flashinfer_all2allv",
    "flashinfer_nvlink_one_sided",
    "moonep",
    "naive",
    "pplx",
]);

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    Flag::new(&["model"], Kind::Text, Key::Model),
    Flag::new(&["config"], Kind::Text, Key::ConfigFile),
    Flag::new(&["tensor-parallel-size", "-tp"], Kind::Size, Key::Tensor),
    Flag::new(&["pipeline-parallel-size", "-pp"], Kind::Size, Key::Pipeline),
    Flag::new(&["prefill-context-parallel-size", "-pcp"], Kind::Size, Key::PrefillContext),
    Flag::new(&["decode-context-parallel-size", "-dcp"], Kind::Size, Key::DecodeContext),
    Flag::new(&["cp-kv-cache-interleave-size"], Kind::Size, Key::KvInterleave),
    Flag::new(&["dcp-kv-cache-interleave-size"], Kind::Size, Key::KvInterleave)
        .old("vLLM calls it --cp-kv-cache-interleave-size now"),
    Flag::new(&["dcp-comm-backend"], Kind::OneOf(&["ag_rs", "a2a"]), Key::DecodeContextBackend),
    Flag::new(&["enable-expert-parallel", "-ep"], Kind::Switch, Key::Experts),
    Flag::new(&["expert-placement-strategy"], Kind::OneOf(&["linear", "round_robin"]), Key::Placement),
    Flag::new(&["all2all-backend"], ALL_TO_ALL, Key::AllToAll),
    Flag::new(&["enable-eplb"], Kind::Switch, Key::Balance),
    Flag::new(&["eplb-config"], Kind::Tree, Key::Balance),
    Flag::new(&["eplb-config.window_size"], Kind::Size, Key::BalanceWindow),
    Flag::new(&["eplb-config.step_interval"], Kind::Size, Key::BalanceInterval),
    Flag::new(&["eplb-config.num_redundant_experts"], Kind::Size, Key::Redundant),
    Flag::new(&["eplb-config.use_async"], Kind::Switch, Key::BalanceAsync),
    Flag::new(&["eplb-config.policy"], Kind::Text, Key::BalancePolicy),
    Flag::new(&["eplb-config.communicator"], Kind::Text, Key::BalanceCommunicator),
    Flag::new(&["num-redundant-experts"], Kind::Size, Key::Redundant)
        .old("vLLM calls it --eplb-config.num_redundant_experts now"),
    Flag::new(&["eplb-window-size"], Kind::Size, Key::BalanceWindow)
        .old("vLLM calls it --eplb-config.window_size now"),
    Flag::new(&["eplb-step-interval"], Kind::Size, Key::BalanceInterval)
        .old("vLLM calls it --eplb-config.step_interval now"),
    Flag::new(&["data-parallel-size", "-dp"], Kind::Size, Key::Data),
    Flag::new(&["data-parallel-size-local", "-dpl"], Kind::Size, Key::DataLocal),
    Flag::new(&["data-parallel-start-rank", "-dpr"], Kind::Size, Key::DataStartRank),
    Flag::new(&["data-parallel-rank", "-dpn"], Kind::Size, Key::DataRank),
    Flag::new(&["data-parallel-hybrid-lb", "-dph"], Kind::Switch, Key::HybridBalancing),
    Flag::new(&["data-parallel-external-lb", "-dpe"], Kind::Switch, Key::ExternalBalancing),
    Flag::new(&["data-parallel-multi-port-external-lb", "-dpm"], Kind::Switch, Key::MultiPortBalancing),
    Flag::new(&["data-parallel-backend", "-dpb"], Kind::OneOf(&["mp", "ray"]), Key::DataBackend),
    Flag::new(&["headless"], Kind::Switch, Key::Headless),
    Flag::new(&["api-server-count", "-asc"], Kind::Size, Key::ApiServers),
    Flag::new(&["nnodes", "-n"], Kind::Size, Key::Nodes),
    Flag::new(&["node-rank", "-r"], Kind::Size, Key::NodeRank),
    Flag::new(&["distributed-executor-backend"], Kind::OneOf(&["ray", "mp", "uni", "external_launcher"]), Key::Executor),
    Flag::new(&["kv-transfer-config"], Kind::Tree, Key::Role),
    Flag::new(&["kv-transfer-config.kv_role"], ROLES, Key::Role),
    Flag::new(&["kv-transfer-config.kv_connector"], Kind::Text, Key::KvConnector),
    Flag::new(&["enable-dbo"], Kind::Switch, Key::DualBatch),
    Flag::new(&["ubatch-size"], Kind::Size, Key::MicroBatches),
    Flag::new(&["dbo-decode-token-threshold"], Kind::Size, Key::DualBatchDecode),
    Flag::new(&["dbo-prefill-token-threshold"], Kind::Size, Key::DualBatchPrefill),
    Flag::new(&["enable-elastic-ep"], Kind::Switch, Key::ElasticExperts),
    Flag::new(&["elastic-ep-max-dp-size"], Kind::Size, Key::ElasticDataMax),
    Flag::new(&["enable-fault-tolerance"], Kind::Switch, Key::FaultTolerance),
    Flag::new(&["max-model-len"], Kind::Tokens, Key::ContextTokens),
    Flag::new(&["dtype"], storage::DTYPES, Key::Dtype),
    Flag::new(&["quantization", "-q"], storage::VLLM_QUANTIZATIONS, Key::Quantization),
    Flag::new(&["kv-cache-dtype"], storage::VLLM_KV_TYPES, Key::KvDtype),
    Flag::new(&["load-format"], storage::VLLM_LOADERS, Key::LoadFormat),
    Flag::new(&["block-size"], Kind::Size, Key::BlockTokens),
    Flag::new(&["max-num-seqs"], Kind::Size, Key::RequestsMax),
    Flag::new(&["max-num-batched-tokens"], Kind::Tokens, Key::BatchTokensMax),
    Flag::new(&["enable-chunked-prefill"], Kind::Switch, Key::ChunkedPrefill),
    Flag::new(&["gpu-memory-utilization"], Kind::Fraction, Key::MemoryFraction),
];

pub(super) static VARIABLES: &[(&str, Key, Kind)] =
    &[("VLLM_PP_LAYER_PARTITION", Key::PipelinePartition, Kind::Sizes)];

pub(super) static IGNORED: &[Ignored] = &[
    Ignored {
        why: "addresses, ports and keys of servers do not move ranks",
        switches: "enable-ssl-refresh allow-credentials grpc",
        values: "host port uds root-path api-key uvicorn-log-level ssl-keyfile ssl-certfile \
                 ssl-ca-certs ssl-cert-reqs ssl-ciphers data-parallel-address -dpa \
                 data-parallel-rpc-port -dpp data-parallel-supervisor-port master-addr \
                 master-port h11-max-incomplete-event-size h11-max-header-count \
                 shutdown-timeout grpc-port",
        lists: "allowed-origins allowed-methods allowed-headers middleware",
    },
    Ignored {
        why: "names, templates and parsers of the API do not move ranks",
        switches: "enable-auto-tool-choice enable-prompt-tokens-details \
                   enable-server-load-tracking enable-force-include-usage \
                   enable-tokenizer-info-endpoint exclude-tools-when-tool-choice-none \
                   return-tokens-as-token-ids trust-request-chat-template \
                   enable-log-outputs enable-log-deltas log-error-stack tokens-only",
        values: "chat-template chat-template-content-format default-chat-template-kwargs \
                 response-role tool-call-parser tool-parser-plugin tool-server \
                 reasoning-parser reasoning-parser-plugin reasoning-config.* \
                 structured-outputs-config.* guided-decoding-backend generation-config \
                 override-generation-config.* max-logprobs logprobs-mode stream-interval \
                 io-processor-plugin renderer-num-workers",
        lists: "served-model-name logits-processors",
    },
    Ignored {
        why: "logs, metrics and profiles do not move ranks",
        switches: "disable-log-stats disable-uvicorn-access-log disable-fastapi-docs \
                   disable-log-requests enable-log-requests enable-request-id-headers \
                   cudagraph-metrics kv-cache-metrics \
                   enable-mfu-metrics enable-layerwise-nvtx-tracing \
                   enable-logging-iteration-details aggregate-engine-logging \
                   eplb-config.log_balancedness",
        values: "show-hidden-metrics-for-version max-log-len log-config-file otlp-traces-endpoint observability-config.* \
                 kv-events-config.* profiler-config.* kv-cache-metrics-sample \
                 eplb-config.log_balancedness_interval",
        lists: "collect-detailed-traces disable-access-log-for-endpoints",
    },
    Ignored {
        why: "where weights and tokenizers come from does not move ranks; the model's sizes do, \
              from its config.json",
        switches: "trust-remote-code skip-tokenizer-init use-tqdm-on-load \
                   enable-ep-weight-filter \
                   allow-deprecated-quantization enable-prompt-embeds \
                   disable-cascade-attn enable-return-routed-experts",
        values: "tokenizer tokenizer-mode tokenizer-revision revision code-revision \
                 hf-config-path hf-token hf-overrides.* config-format \
                 download-dir safetensors-load-strategy model-loader-extra-config.* \
                 pt-load-map-location model-impl seed task runner convert \
                 allowed-local-media-path quantization-config.* model-class-overrides.* \
                 pooler-config.* override-attention-dtype",
        lists: "ignore-patterns allowed-media-domains",
    },
    Ignored {
        why: "kernels, graphs and compilation are the engine's own",
        switches: "enforce-eager disable-custom-all-reduce disable-nccl-for-dp-synchronization \
                   dcp-q-replicate numa-bind ray-workers-use-nsight \
                   disable-sliding-window enable-flashinfer-autotune calculate-kv-scales",
        values: "compilation-config.* -O -cc.* attention-backend attention-config.* \
                 kernel-config.* cudagraph-capture-sizes max-cudagraph-capture-size \
                 moe-backend linear-backend optimization-level performance-mode worker-cls \
                 worker-extension-cls distributed-timeout-seconds \
                 cpu-distributed-timeout-seconds max-parallel-loading-workers \
                 dp-sync-interval additional-config.* eplb-config.enable_migration_batching mamba-backend \
                 mamba-cache-dtype mamba-ssm-cache-dtype mamba-block-size \
                 mamba-cache-mode long-prefill-token-threshold",
        lists: "numa-bind-nodes numa-bind-cpus device-ids cuda-graph-sizes",
    },
    Ignored {
        why: "admission, order and caching decide what runs when, not where",
        switches: "enable-prefix-caching async-scheduling disable-hybrid-kv-cache-manager \
                   disable-chunked-mm-input scheduler-reserve-full-isl \
                   enable-batch-sharded-sampling enable-sleep-mode enable-cumem-allocator \
                   kv-sharing-fast-prefill",
        values: "scheduling-policy scheduler-cls max-num-active-seqs max-num-queued-reqs \
                 max-num-queued-tokens max-num-partial-prefills \
                 max-long-partial-prefills prefill-schedule-interval watermark \
                 prefix-caching-hash-algo num-gpu-blocks-override \
                 kv-cache-memory-bytes kv-offloading-size kv-offloading-backend \
                 kv-cache-dtype-skip-layers cpu-offload-gb \
                 cpu-offload-params offload-backend swap-space num-lookahead-slots \
                 kv-transfer-config.engine_id \
                 kv-transfer-config.kv_buffer_device kv-transfer-config.kv_buffer_size \
                 kv-transfer-config.kv_rank kv-transfer-config.kv_parallel_size \
                 kv-transfer-config.kv_ip kv-transfer-config.kv_port \
                 kv-transfer-config.kv_connector_extra_config.* \
                 kv-transfer-config.kv_connector_module_path \
                 kv-transfer-config.kv_load_failure_policy \
                 kv-transfer-config.enable_permute_local_kv ec-transfer-config.* \
                 fault-tolerance-config.* weight-transfer-config.* shutdown-grace-period",
        lists: "",
    },
    Ignored {
        why: "adapters, drafts and other modalities are not planned",
        switches: "enable-lora fully-sharded-loras lora-bias enable-tower-connector-lora \
                   enable-mm-embeds language-model-only interleave-mm-strings skip-mm-profiling \
                   specialize-active-lora",
        values: "max-lora-rank max-loras max-cpu-loras lora-dtype lora-extra-vocab-size \
                 default-mm-loras.* speculative-config.* limit-mm-per-prompt.* \
                 media-io-kwargs.* mm-processor-kwargs.* mm-processor-cache-gb \
                 mm-processor-cache-type mm-shm-cache-max-object-size-mb \
                 mm-encoder-tp-mode mm-encoder-attn-backend video-pruning-rate",
        lists: "lora-modules lora-target-modules",
    },
];
