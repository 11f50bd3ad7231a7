//! The words that each engine has for storage; the first of several that mean the same is written.

use crate::dialect::table::Kind;

/// Words for the type of weights and activations: vLLM, SGLang and here.
pub(in crate::dialect) const DTYPES: Kind =
    Kind::OneOf(&["auto", "bfloat16", "float16", "float32", "half", "float"]);
/// The same in TensorRT-LLM.
pub(in crate::dialect) const TENSORRT_DTYPES: Kind =
    Kind::OneOf(&["auto", "bfloat16", "float16", "float32"]);

/// Quantizations that can be planned in our own words.
pub(in crate::dialect) const QUANTIZATIONS: Kind = Kind::OneOf(&["fp8", "awq", "gptq"]);
/// vLLM's `QuantizationMethods`.
pub(in crate::dialect) const VLLM_QUANTIZATIONS: Kind = Kind::OneOf(&[
    "fp8",
    "awq",
    "gptq",
    "bitsandbytes",
    "mxfp8",
    "modelopt_fp4",
    "awq_marlin",
    "gptq_marlin",
    "fp8_per_tensor",
    "fp8_per_block",
    "ptpc_fp8",
    "fbgemm_fp8",
    "modelopt",
    "moe_wna16",
    "compressed-tensors",
    "gguf",
    "mxfp4",
    "gpt_oss_mxfp4",
    "modelopt_mxfp8",
    "modelopt_mixed",
    "petit_nvfp4",
    "experts_int8",
    "torchao",
    "quark",
    "auto-round",
    "inc",
    "online",
    "fp_quant",
    "rtn",
    "bitblas",
    "gptq_bitblas",
    "gptq_marlin_24",
    "deepspeedfp",
    "hqq",
    "aqlm",
    "qqq",
    "ipex",
    "tpu_int8",
    "cpu_awq",
]);
/// SGLang's `QUANTIZATION_CHOICES`.
pub(in crate::dialect) const SGLANG_QUANTIZATIONS: Kind = Kind::OneOf(&[
    "fp8",
    "awq",
    "gptq",
    "bitsandbytes",
    "mxfp8",
    "modelopt_fp4",
    "awq_marlin",
    "gptq_marlin",
    "marlin",
    "modelopt",
    "modelopt_fp8",
    "w8a8_fp8",
    "w8a8_int8",
    "nvfp4_online",
    "moe_wna16",
    "unquant",
    "compressed-tensors",
    "gguf",
    "mxfp4",
    "modelopt_mixed",
    "petit_nvfp4",
    "w4afp8",
    "qoq",
    "auto-round",
    "auto-round-int8",
    "modelslim",
    "mxfp_w4a8",
    "quark",
    "quark_int4fp8_moe",
    "quark_mxfp4",
    "mlx_q4",
    "mlx_q8",
    "humming",
]);
/// TensorRT-LLM's `QuantAlgo`.
pub(in crate::dialect) const TENSORRT_QUANTIZATIONS: Kind = Kind::OneOf(&[
    "FP8",
    "FP8_BLOCK_SCALES",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "W4A16_AWQ",
    "W4A16_GPTQ",
    "W8A16_GPTQ",
    "W8A16",
    "W4A16",
    "NVFP4",
    "MXFP8",
    "W4A16_MXFP4",
    "W4A8_MXFP4_FP8",
    "W4A8_MXFP4_MXFP8",
    "W4A8_NVFP4_FP8",
    "W4A8_AWQ",
    "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    "W4A8_QSERVE_PER_GROUP",
    "W4A8_QSERVE_PER_CHANNEL",
    "INT8",
    "MIXED_PRECISION",
    "NO_QUANT",
]);

/// Words for the KV cache, our own.
pub(in crate::dialect) const KV_TYPES: Kind =
    Kind::OneOf(&["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"]);
/// vLLM's `CacheDType`.
pub(in crate::dialect) const VLLM_KV_TYPES: Kind = Kind::OneOf(&[
    "auto",
    "bfloat16",
    "float16",
    "fp8",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp8_inc",
    "nvfp4",
    "nvfp4_4over6",
    "fp8_ds_mla",
    "nvfp4_ds_mla",
    "fp8_per_token_head",
    "int8_per_token_head",
    "int4_per_token_head",
    "turboquant_k8v4",
    "turboquant_4bit_nc",
    "turboquant_k3v4_nc",
    "turboquant_3bit_nc",
]);
/// SGLang's.
pub(in crate::dialect) const SGLANG_KV_TYPES: Kind =
    Kind::OneOf(&["auto", "bfloat16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1"]);
/// TensorRT-LLM's, of the cache and of `quant_config`.
pub(in crate::dialect) const TENSORRT_KV_TYPES: Kind =
    Kind::OneOf(&["auto", "float16", "bfloat16", "fp8", "nvfp4", "int8"]);

/// Where weights are read from: vLLM's.
pub(in crate::dialect) const VLLM_LOADERS: Kind = Kind::OneOf(&[
    "auto",
    "hf",
    "pt",
    "safetensors",
    "npcache",
    "dummy",
    "tensorizer",
    "runai_streamer",
    "runai_streamer_sharded",
    "bitsandbytes",
    "sharded_state",
    "gguf",
    "mistral",
    "fastsafetensors",
    "instanttensor",
]);
/// SGLang's.
pub(in crate::dialect) const SGLANG_LOADERS: Kind = Kind::OneOf(&[
    "auto",
    "pt",
    "safetensors",
    "npcache",
    "dummy",
    "sharded_state",
    "presharded",
    "gguf",
    "expert_pack",
    "bitsandbytes",
    "mistral",
    "layered",
    "flash_rl",
    "remote",
    "remote_instance",
    "fastsafetensors",
    "private",
    "runai_streamer",
]);
