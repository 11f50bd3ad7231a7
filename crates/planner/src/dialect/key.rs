//! Everything that a flag can set, under one name for all engines. In the tables, `DataLocal` is
//! `data-local`.

use serde::Deserialize;

/// Writes the settings as a list: name, what it is. `Tensor` to `Role` are the layout; from `Executor`
/// on, nothing carries them on.
macro_rules! keys {
    ($($name:ident = $about:literal;)+) => {
        /// What a flag sets. Several engines have a flag for most of the layout; the rest is one
        /// engine's, read because that engine checks it against the layout.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Key {
            $(#[doc = $about] $name,)+
        }

        impl Key {
            /// Returns whether it is a part of the layout.
            #[must_use]
            pub fn is_layout(self) -> bool {
                (Self::Tensor..=Self::Role).contains(&self)
            }

            /// Returns whether neither the layout nor [`Parameters`](super::Parameters) has a place for it:
            /// it is held against the layout, and a translation leaves it out.
            pub(super) fn is_checked(self) -> bool {
                self >= Self::Executor
            }

            /// What it is, for the help.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$name => $about,)+
                }
            }
        }
    };
}

keys! {
    Model = "The model: a name or a folder.";
    ConfigFile = "A file with more settings.";

    Tensor = "Ranks that share one stage.";
    Pipeline = "Stages of a replica.";
    PipelinePartition = "Layers of each stage, first to last.";
    MicroBatchMax = "Most requests of a micro-batch of the pipeline.";
    Data = "Replicas.";
    DataStartRank = "First replica of this node.";
    DataLocal = "Replicas of this node.";
    DataRank = "The one replica that this process serves.";
    HybridBalancing = "One front door per node.";
    ExternalBalancing = "One front door per replica.";
    Balancing = "Who spreads requests over replicas.";
    PrefillContext = "Ranks that split the tokens of a prefill.";
    DecodeContext = "Ranks that split the KV cache along the sequence.";
    KvInterleave = "Consecutive tokens on one decode-context rank.";
    AttentionData = "Groups that each hold whole requests in attention.";
    AttentionDataSwitch = "Attention data parallelism over the ranks of a stage.";
    AttentionTensor = "Ranks that split the heads of a request.";
    AttentionContext = "Ranks that split the tokens of a request in attention.";
    Experts = "Spread whole experts over the ranks of all replicas.";
    DeepEp = "Spread experts over a stage, and exchange tokens by DeepEP (SGLang).";
    ExpertWidth = "Spread whole experts over so many ranks of a stage.";
    MoeTensor = "Ranks that split each expert.";
    MoeData = "Copies of the experts within a stage.";
    MoeCluster = "Ranks that share an expert's rows.";
    MoeDenseTensor = "Tensor width of dense layers beside experts.";
    HeadTensor = "Ranks that split the language-model head.";
    Placement = "Which experts a rank holds.";
    Redundant = "Physical experts beyond the logical ones.";
    Balance = "Rebalance experts by measured load.";
    BalanceWindow = "Steps over which expert load is summed.";
    BalanceInterval = "Steps between rearrangements of experts.";
    Role = "What the replicas do: prefill, decode or both.";

    Nodes = "Machines.";
    NodeRank = "Which machine this is.";
    DevicesPerNode = "Devices of a machine.";
    ContextTokens = "Longest sequence, in tokens.";
    Dtype = "Type of weights and activations.";
    Quantization = "Quantization of the weights.";
    KvDtype = "Type of the KV cache.";
    BlockTokens = "Tokens of a KV block.";
    RequestsMax = "Most running requests.";
    BatchTokensMax = "Most tokens of one step.";
    MemoryFraction = "Share of device memory to use.";
    ExpertSlots = "Physical experts of a layer, counted together.";

    MultiPortBalancing = "One supervised front door per replica (vLLM).";
    RouterServers = "A server of its own for each replica, behind a router (SGLang).";
    Headless = "No front door on this node (vLLM).";
    ContextSwitch = "Split the tokens of a prefill (SGLang).";
    DataLmHead = "A whole language-model head per attention group (SGLang).";
    ContextKind = "How context ranks share work (TensorRT-LLM).";
    TensorLmHead = "Split the language-model head under attention data parallelism (TensorRT-LLM).";
    LayerUpdates = "Layers rebalanced in a step (TensorRT-LLM).";

    Executor = "What starts the workers (vLLM).";
    DataBackend = "What starts the replicas (vLLM).";
    AllToAll = "How tokens reach their experts.";
    ElasticExperts = "Let replicas come and go (vLLM).";
    ElasticDataMax = "Most replicas to grow to (vLLM).";
    FaultTolerance = "Survive the loss of a replica (vLLM).";
    ApiServers = "HTTP processes (vLLM).";
    DualBatch = "Overlap two micro-batches (vLLM).";
    MicroBatches = "Micro-batches to overlap (vLLM).";
    DualBatchDecode = "Fewest decode tokens to overlap (vLLM).";
    DualBatchPrefill = "Fewest prefill tokens to overlap (vLLM).";
    BalanceAsync = "Rearrange experts beside the steps (vLLM).";
    BalancePolicy = "How experts are arranged.";
    BalanceCommunicator = "What carries the weights of experts (vLLM).";
    KvConnector = "What carries the KV cache (vLLM).";
    ChunkedPrefill = "Split long prompts over steps.";

    ContextStrategy = "Which tokens a context rank gets (SGLang).";
    DecodeContextBackend = "How partial attention is merged.";
    WeightPrefetch = "Ranks that prefetch each other's experts (SGLang DWDP).";
    LmHeadAllToAll = "Tensor-parallel head over attention groups (SGLang).";
    MoeRunner = "Kernels of the experts (SGLang).";
    ElasticBackend = "What survives lost ranks (SGLang).";
    DispatchAlgorithm = "Which copy of an expert a token takes (SGLang).";
    SplitMultiplex = "Prefill and decode side by side on a device (SGLang).";
    RoleSwitch = "Let a server change its role (SGLang).";
    PrefillChunk = "Most tokens of a prefill chunk (SGLang).";
    BalanceInternally = "How replicas share requests (SGLang).";

    WorldSize = "All ranks (TensorRT-LLM).";
    Rank = "This rank (TensorRT-LLM).";
    LoadFormat = "How weights are read.";
}
