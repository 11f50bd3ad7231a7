//! How a deployment is split over ranks: one vocabulary for parameters that every engine names differently.
//!
//! A replica is `pipeline` stages of `tensor * prefill_context` ranks. The ranks of a stage are
//! factored twice, once for attention and once for the experts:
//!
//! ```text
//! tensor * prefill_context = attention_data * attention_context * attention_tensor
//!                          = moe_data * moe_expert * moe_tensor * moe_cluster
//! ```
//!
//! Widths are counts of ranks, at least 1. A width of `None` is derived from the others; `playhouse-planner`
//! derives and checks all of them.

use serde::{Deserialize, Serialize};

/// The parallel parameters of one pool of equal replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParallelSpec {
    /// Ranks that share one stage, context ranks aside. Default 1.
    ///
    /// vLLM `--tensor-parallel-size`; TensorRT-LLM `tp_size`; SGLang's `--tp-size` divided by its
    /// `--attn-cp-size`, which SGLang counts inside TP.
    pub tensor: u32,
    /// Stages of one replica. Default 1.
    ///
    /// vLLM `--pipeline-parallel-size`; SGLang `--pp-size`; TensorRT-LLM `pp_size`.
    pub pipeline: u32,
    /// Layers of each stage, first to last. Default: as even as possible, the remainder to the
    /// first stages.
    ///
    /// TensorRT-LLM `pp_partition`; vLLM and SGLang read environment variables
    /// (`VLLM_PP_LAYER_PARTITION`, `SGLANG_PP_LAYER_PARTITION`). By default vLLM gives the remainder
    /// to the stages before the last, SGLang to the last ones.
    pub pipeline_partition: Option<Vec<u32>>,
    /// Most requests in one micro-batch of the pipeline. Default: the running requests divided by the stages.
    ///
    /// SGLang `--pp-max-micro-batch-size`; the others have no name for it.
    pub micro_batch_max: Option<u32>,
    /// Replicas: complete copies of the model, each with a scheduler of its own. Default 1.
    ///
    /// vLLM `--data-parallel-size`; SGLang `--dp-size` without `--enable-dp-attention`;
    /// TensorRT-LLM has none (several servers behind an orchestrator).
    pub data: u32,
    /// First replica of this node. Default 0. vLLM `--data-parallel-start-rank`.
    pub data_start_rank: u32,
    /// Replicas of this node. Default: all. vLLM `--data-parallel-size-local`.
    pub data_local: Option<u32>,
    /// The one replica that this process serves. vLLM `--data-parallel-rank`.
    pub data_rank: Option<u32>,
    /// Where requests are spread over the replicas. Default internal.
    pub load_balancing: LoadBalancing,
    /// Ranks that split the tokens of a prefill; multiplies the world. Default 1.
    ///
    /// vLLM `--prefill-context-parallel-size`; SGLang `--attn-cp-size` (inside TP); TensorRT-LLM
    /// `cp_size`.
    pub prefill_context: u32,
    /// Ranks of a stage that split the KV cache along the sequence while decoding; re-uses the
    /// ranks of `tensor` and `prefill_context`. Default 1.
    ///
    /// vLLM `--decode-context-parallel-size`; SGLang `--dcp-size`; TensorRT-LLM `cp_type: HELIX`.
    pub decode_context: u32,
    /// Consecutive tokens that stay on one decode-context rank: token `i` lives on rank
    /// `(i / kv_interleave_tokens) % decode_context`. Default 1.
    ///
    /// vLLM `--cp-kv-cache-interleave-size`; TensorRT-LLM `cp_config.tokens_per_block`.
    pub kv_interleave_tokens: u32,
    /// Groups of a stage's ranks that each hold whole requests in attention; no extra copies of
    /// the weights of the experts. Default 1.
    ///
    /// SGLang `--dp-size` with `--enable-dp-attention`, or `--attn-dp-size`; TensorRT-LLM
    /// `enable_attention_dp` (always `tp_size` wide); vLLM has none (its DP replicas share experts
    /// instead).
    pub attention_data: u32,
    /// Ranks over which the heads of one request are split. Default: the ranks that the other widths leave.
    ///
    /// TensorRT-LLM `attn_tp_size`; derived in SGLang.
    pub attention_tensor: Option<u32>,
    /// Ranks over which the tokens of one request are split in attention. Default: the ranks that an explicit
    /// `attention_tensor` leaves, else `prefill_context`.
    ///
    /// TensorRT-LLM `attn_cp_size`; SGLang `--attn-cp-size`.
    pub attention_context: Option<u32>,
    /// How experts are divided over ranks, and over how many. Default off.
    pub expert: ExpertParallel,
    /// Ranks over which each expert is split. Default: the ranks of the stage that the other widths leave.
    ///
    /// TensorRT-LLM `moe_tp_size`; derived in SGLang; vLLM has none or all.
    pub moe_tensor: Option<u32>,
    /// Copies of the experts within a stage. Default 1. SGLang `--moe-dp-size`.
    pub moe_data: u32,
    /// Ranks that share one expert's rows in a cluster. Default 1. TensorRT-LLM `moe_cluster_size`.
    pub moe_cluster: u32,
    /// Ranks that split dense layers and shared experts: `tensor`, or the whole stage, whose context
    /// ranks then gather their tokens. Default `tensor`.
    ///
    /// vLLM and TensorRT-LLM have `tensor`; SGLang the whole stage.
    pub dense_tensor: Option<u32>,
    /// Tensor width of the dense layers of a mixture-of-experts model. Default: `dense_tensor`.
    ///
    /// SGLang `--moe-dense-tp-size` (1, or the whole stage in later versions).
    pub moe_dense_tensor: Option<u32>,
    /// Ranks that split the language-model head: `tensor`, those of an attention group, or 1. Default
    /// `tensor`. The embedding table is always split like attention.
    ///
    /// SGLang: an attention group with `--enable-dp-lm-head`, else `tensor`; TensorRT-LLM: 1 with
    /// `enable_attention_dp`, unless `enable_lm_head_tp_in_adp`; vLLM has `tensor`.
    pub head_tensor: Option<u32>,
    /// Rule by which experts are placed on ranks. Default linear. vLLM `--expert-placement-strategy`.
    pub expert_placement: ExpertPlacement,
    /// Physical experts per layer beyond the logical ones. Default 0.
    ///
    /// vLLM `--eplb-config.num_redundant_experts`; SGLang `--ep-num-redundant-experts`;
    /// TensorRT-LLM `moe_config.load_balancer.num_slots` less the experts.
    pub redundant_experts: u32,
    /// Rebalancing of experts by measured load. Default off.
    ///
    /// vLLM and SGLang `--enable-eplb`; TensorRT-LLM `load_balancer.layer_updates_per_iter > 0`.
    pub expert_balance: Option<ExpertBalance>,
    /// Share of a request's work that the replicas do. Default unified.
    ///
    /// SGLang `--disaggregation-mode`; vLLM `--kv-transfer-config` `kv_role`; TensorRT-LLM context
    /// and generation servers.
    pub role: Role,
}

/// Expert parallelism. The engines disagree about what its width means; see `playhouse-planner`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertParallel {
    /// Every rank of the stage holds a slice of every expert.
    #[default]
    Off,
    /// Every rank of the stage of *all* replicas holds a slice of every expert: width
    /// `data * prefill_context * tensor`. vLLM without `--enable-expert-parallel`.
    SplitAcrossReplicas,
    /// Experts are spread over the stage's ranks of *all* replicas: width
    /// `data * prefill_context * tensor`. vLLM `--enable-expert-parallel`.
    AcrossReplicas,
    /// Experts are spread over this many ranks of each stage of each replica. SGLang `--ep-size`;
    /// TensorRT-LLM `moe_ep_size`.
    Within(u32),
}

/// Rebalancing of experts (EPLB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpertBalance {
    /// Steps over which load is summed. Default 1000. vLLM `window_size`; SGLang
    /// `--expert-distribution-recorder-buffer-size`, by default its interval.
    pub window_steps: u32,
    /// Steps between rearrangements. Default 3000. vLLM `step_interval`; SGLang
    /// `--eplb-rebalance-num-iterations` (1000 there).
    pub interval_steps: u32,
}

/// Rule by which experts are placed on the ranks of an expert group.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ExpertPlacement {
    /// Consecutive experts; the first ranks hold one more when they do not divide evenly.
    #[default]
    Linear,
    /// Expert `e` lives on rank `e % width`.
    RoundRobin,
}

/// The place where requests are spread over replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancing {
    /// One front door for all replicas.
    #[default]
    Internal,
    /// One front door per node for its own replicas; an outer balancer above.
    Hybrid,
    /// One front door per replica.
    External,
}

/// The share of a request's work that a replica does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Prefill and decode.
    #[default]
    Unified,
    /// Prefill; the KV cache then moves to a decode replica.
    Prefill,
    /// Decode of requests that a prefill replica began.
    Decode,
}

// === impl ParallelSpec ===

impl Default for ParallelSpec {
    fn default() -> Self {
        Self {
            tensor: 1,
            pipeline: 1,
            pipeline_partition: None,
            micro_batch_max: None,
            data: 1,
            data_start_rank: 0,
            data_local: None,
            data_rank: None,
            load_balancing: LoadBalancing::Internal,
            prefill_context: 1,
            decode_context: 1,
            kv_interleave_tokens: 1,
            attention_data: 1,
            attention_tensor: None,
            attention_context: None,
            expert: ExpertParallel::Off,
            moe_tensor: None,
            moe_data: 1,
            moe_cluster: 1,
            dense_tensor: None,
            moe_dense_tensor: None,
            head_tensor: None,
            expert_placement: ExpertPlacement::Linear,
            redundant_experts: 0,
            expert_balance: None,
            role: Role::Unified,
        }
    }
}

// === impl ExpertBalance ===

impl Default for ExpertBalance {
    fn default() -> Self {
        Self { window_steps: 1000, interval_steps: 3000 }
    }
}
