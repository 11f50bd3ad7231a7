//! The flags of `playhouse serve`, but those of the layout.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use playhouse_cluster::Policy;
use playhouse_model::Dtype;

use crate::authority;
use crate::isolation::Isolation;
use crate::sizing::Bytes;

/// Serve a model over the OpenAI API.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Folder of a Hugging Face checkpoint; without one, the small model inside the binary
    pub(crate) model: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, env = "PLAYHOUSE_HOST", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "PLAYHOUSE_PORT", default_value_t = 8000)]
    pub(crate) port: u16,
    /// Names that clients may call the model by; the first one is shown
    #[arg(long, env = "PLAYHOUSE_SERVED_MODEL_NAME", num_args = 1.., value_name = "NAME")]
    pub(crate) served_model_name: Vec<String>,
    /// Longest sequence, prompt and output together, in tokens; as the model allows by default
    #[arg(long, env = "PLAYHOUSE_MAX_MODEL_LEN", value_name = "TOKENS")]
    pub(crate) max_model_len: Option<NonZeroUsize>,
    /// Sequences in one batch
    #[arg(long, env = "PLAYHOUSE_MAX_NUM_SEQS", value_name = "N", default_value = "256")]
    pub(crate) max_num_seqs: NonZeroUsize,
    /// Tokens in one step, prefill chunks and decodes together
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value = "512"
    )]
    pub(crate) max_num_batched_tokens: NonZeroUsize,
    /// Steps in flight; one, or with several pipeline stages one more than there are stages
    #[arg(long, env = "PLAYHOUSE_MAX_CONCURRENT_BATCHES", value_name = "N")]
    pub(crate) max_concurrent_batches: Option<NonZeroUsize>,
    /// Element type of weights, activations and KV cache; auto keeps that of the checkpoint
    #[arg(long, env = "PLAYHOUSE_DTYPE", default_value = "auto")]
    pub(crate) dtype: DtypeArg,
    /// Memory for the KV caches of all replicas, such as 4GiB; by default what --max-num-seqs
    /// sequences need in each, but no more than 40 % of the available memory
    #[arg(long, env = "PLAYHOUSE_KV_CACHE_MEMORY", value_name = "BYTES")]
    pub(crate) kv_cache_memory: Option<Bytes>,
    /// Threads that compute, which the ranks share; all cores by default
    #[arg(long, env = "PLAYHOUSE_THREADS", value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Whether ranks are threads of this process or processes; threads if there is only one rank
    #[arg(long, env = "PLAYHOUSE_ISOLATION")]
    pub(crate) isolation: Option<Isolation>,
    /// How requests are spread over replicas: prefix, round_robin, least_load, power_of_two or
    /// session (by the x-session-id header)
    #[arg(long, env = "PLAYHOUSE_ROUTING_POLICY", default_value_t, value_name = "POLICY")]
    pub(crate) routing_policy: Policy,
    /// Listen here for nodes, and run all ranks on those that join
    #[arg(
        long,
        env = "PLAYHOUSE_CLUSTER_LISTEN",
        value_name = "ADDRESS:PORT",
        conflicts_with_all = ["isolation", "threads"]
    )]
    pub(crate) cluster_listen: Option<SocketAddr>,
    /// Folder of the cluster's certificate authority, as `playhouse cluster init` made it
    #[arg(
        long,
        env = "PLAYHOUSE_CLUSTER_DIR",
        value_name = "DIR",
        default_value = authority::DEFAULT_DIR
    )]
    pub(crate) cluster_dir: PathBuf,
    /// Address of the admin API
    #[arg(long, env = "PLAYHOUSE_ADMIN_HOST", default_value = "127.0.0.1", value_name = "HOST")]
    pub(crate) admin_host: IpAddr,
    /// Port of the admin API; the one after --port by default, 0 takes a free one
    #[arg(long, env = "PLAYHOUSE_ADMIN_PORT", value_name = "PORT")]
    pub(crate) admin_port: Option<u16>,
    /// Token of the admin API, better given by the environment, which `ps` does not show; without
    /// one, a new one is made and printed
    #[arg(long, env = "PLAYHOUSE_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) admin_token: Option<String>,
    /// Key that clients must send; better given by the environment, which `ps` does not show
    #[arg(long, env = "PLAYHOUSE_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Makes the seeds of requests without one a fixed sequence
    #[arg(long, env = "PLAYHOUSE_SEED", value_name = "SEED")]
    pub(crate) seed: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DtypeArg {
    Auto,
    #[value(alias = "bfloat16")]
    Bf16,
    #[value(aliases = ["float16", "half"])]
    F16,
    #[value(aliases = ["float32", "float"])]
    F32,
}

// === impl DtypeArg ===

impl From<DtypeArg> for Dtype {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::Auto => Self::Auto,
            DtypeArg::Bf16 => Self::Bf16,
            DtypeArg::F16 => Self::F16,
            DtypeArg::F32 => Self::F32,
        }
    }
}
