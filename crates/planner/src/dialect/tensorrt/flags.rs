//! TensorRT-LLM's words: the first name of a flag is the command's or the `Mapping`'s, the last the
//! YAML's.

use crate::dialect::table::{Flag, Ignored, Kind};
use crate::dialect::{Key, storage};

const CONTEXT_KINDS: Kind = Kind::OneOf(&["ULYSSES", "STAR", "RING", "HELIX"]);
const ROLES: Kind = Kind::OneOf(&["CONTEXT", "GENERATION", "MM_ENCODER"]);

/// What `trtllm-serve` has a flag for; the rest goes into its YAML file.
pub(in crate::dialect) const COMMAND_KEYS: &[Key] = &[
    Key::Model,
    Key::ConfigFile,
    Key::Tensor,
    Key::Pipeline,
    Key::PrefillContext,
    Key::ExpertWidth,
    Key::MoeCluster,
    Key::DevicesPerNode,
    Key::Role,
    Key::RequestsMax,
    Key::BatchTokensMax,
    Key::ContextTokens,
    Key::MemoryFraction,
    Key::ChunkedPrefill,
];

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    Flag::new(&["model"], Kind::Text, Key::Model),
    Flag::new(&["config", "extra_llm_api_options"], Kind::Text, Key::ConfigFile),
    Flag::new(&["tp_size", "tp", "tensor_parallel_size"], Kind::Size, Key::Tensor),
    Flag::new(&["pp_size", "pp", "pipeline_parallel_size"], Kind::Size, Key::Pipeline),
    Flag::new(&["cp_size", "cp", "context_parallel_size"], Kind::Size, Key::PrefillContext),
    Flag::new(&["ep_size", "moe_ep_size", "moe_expert_parallel_size"], Kind::SizeOrAuto, Key::ExpertWidth),
    Flag::new(&["moe_tp_size", "moe_tensor_parallel_size"], Kind::SizeOrAuto, Key::MoeTensor),
    Flag::new(&["cluster_size", "moe_cluster_size"], Kind::SizeOrAuto, Key::MoeCluster),
    Flag::new(&["moe_cluster_parallel_size"], Kind::SizeOrAuto, Key::MoeCluster)
        .old("TensorRT-LLM is going to drop expert clusters"),
    Flag::new(&["attn_tp_size"], Kind::SizeOrAuto, Key::AttentionTensor),
    Flag::new(&["attn_cp_size"], Kind::SizeOrAuto, Key::AttentionContext),
    Flag::new(&["enable_attention_dp"], Kind::Switch, Key::AttentionDataSwitch),
    Flag::new(&["enable_lm_head_tp_in_adp"], Kind::Switch, Key::TensorLmHead),
    Flag::new(&["pp_partition"], Kind::Sizes, Key::PipelinePartition),
    Flag::new(&["cp_config"], Kind::Tree, Key::ContextKind),
    Flag::new(&["cp_type", "cp_config.cp_type"], CONTEXT_KINDS, Key::ContextKind),
    Flag::new(&["cp_config.tokens_per_block"], Kind::Size, Key::KvInterleave),
    Flag::new(&["moe_config.load_balancer.num_slots"], Kind::Size, Key::ExpertSlots),
    Flag::new(&["moe_config.load_balancer.layer_updates_per_iter"], Kind::Size, Key::LayerUpdates),
    Flag::new(&["server_role"], ROLES, Key::Role),
    Flag::new(&["world_size"], Kind::Size, Key::WorldSize),
    Flag::new(&["rank"], Kind::Size, Key::Rank),
    Flag::new(&["gpus_per_node"], Kind::Size, Key::DevicesPerNode),
    Flag::new(&["max_batch_size"], Kind::Size, Key::RequestsMax),
    Flag::new(&["max_num_tokens"], Kind::Tokens, Key::BatchTokensMax),
    Flag::new(&["max_seq_len"], Kind::Tokens, Key::ContextTokens),
    Flag::new(&["kv_cache_free_gpu_memory_fraction", "free_gpu_memory_fraction", "kv_cache_config.free_gpu_memory_fraction"], Kind::Fraction, Key::MemoryFraction),
    Flag::new(&["kv_cache_config.tokens_per_block"], Kind::Size, Key::BlockTokens),
    Flag::new(&["kv_cache_dtype", "quant_config.kv_cache_quant_algo", "kv_cache_config.dtype"], storage::TENSORRT_KV_TYPES, Key::KvDtype),
    Flag::new(&["enable_chunked_prefill"], Kind::Switch, Key::ChunkedPrefill),
    Flag::new(&["dtype"], storage::TENSORRT_DTYPES, Key::Dtype),
    Flag::new(&["quant_config.quant_algo"], storage::TENSORRT_QUANTIZATIONS, Key::Quantization),
];

pub(super) static IGNORED: &[Ignored] = &[
    Ignored {
        why: "addresses, names and parsers of the API do not move ranks",
        switches: "trust_remote_code grpc",
        values: "host port tokenizer custom_tokenizer tokenizer_mode served_model_name revision \
                 tokenizer_revision reasoning_parser tool_parser tool_call_parser \
                 chat_template media_io_kwargs num_postprocess_workers \
                 postprocess_tokenizer_dir log_level metadata_server_config_file \
                 disagg_cluster_uri disagg_cluster.* otlp_traces_endpoint custom_module_dirs \
                 stream_interval perf_metrics_max_requests",
        lists: "",
    },
    Ignored {
        why: "kernels, graphs and backends are the engine's own",
        switches: "disable_overlap_scheduler fail_fast_on_attention_window_too_large \
                   enable_autotuner enable_layerwise_nvtx_marker enable_min_latency \
                   skip_tokenizer_init print_iter_log return_perf_metrics enable_iter_perf_stats \
                   enable_iter_req_stats gather_generation_logits \
                   use_cuda_graph torch_compile_enabled",
        values: "backend attn_backend allreduce_strategy orchestrator_type load_format \
                 cuda_graph_config.* torch_compile_config.* moe_config.backend \
                 moe_config.max_num_tokens moe_config.disable_finalize_fusion \
                 moe_config.use_low_precision_moe_combine \
                 moe_config.load_balancer.initial_global_assignments \
                 nvfp4_gemm_config.* sparse_attention_config.* cp_config.use_nccl_for_alltoall \
                 cp_config.fifo_version cp_config.cp_anchor_size cp_config.block_size \
                 mm_encoder_only env_overrides.* ray_worker_extension_cls build_config.* \
                 sampler_type batch_wait_timeout_ms batch_wait_timeout_iters \
                 batch_wait_max_tokens_ratio",
        lists: "auto_parallel.*",
    },
    Ignored {
        why: "a file of its own is not read: write its num_slots and layer_updates_per_iter in place",
        switches: "",
        values: "moe_config.load_balancer",
        lists: "",
    },
    Ignored {
        why: "admission, order and caching decide what runs when, not where",
        switches: "kv_cache_config.enable_block_reuse kv_cache_config.enable_partial_reuse",
        values: "max_input_len max_beam_width scheduler_config.* attention_dp_config.* \
                 kv_cache_config.* cache_transceiver_config.* max_num_sequences guided_decoding_backend",
        lists: "",
    },
    Ignored {
        why: "adapters, drafts and other modalities are not planned",
        switches: "enable_lora",
        values: "lora_config.* speculative_config.* peft_cache_config.* kv_connector_config.*",
        lists: "",
    },
    Ignored {
        why: "where weights come from does not move ranks; the model's sizes do, from its config.json",
        switches: "",
        values: "checkpoint_format checkpoint_loader model_kwargs.* quant_config.* \
                 encoder_length workspace",
        lists: "",
    },
];
