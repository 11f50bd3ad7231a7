//! The flags of `playhouse serve`, except those of the layout.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{Args, ValueEnum};
use playhouse_cluster::Policy;
use playhouse_model::Dtype;
use playhouse_telemetry::LogFormat;

use super::cors::CorsArgs;
use super::span;
use crate::authority;
use crate::isolation::Isolation;
use crate::node::DeviceList;
use crate::number;
use crate::sizing::Bytes;

/// Serve a model over the OpenAI API.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Folder of a Hugging Face checkpoint; without one, the small model inside the binary
    pub(crate) model: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, env = "PLAYHOUSE_HOST", default_value = "127.0.0.1", value_parser = number::host)]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(
        long,
        env = "PLAYHOUSE_PORT",
        default_value_t = 8000,
        value_parser = number::whole::<u16>
    )]
    pub(crate) port: u16,
    /// Name that clients may call the model by; several as a list with commas, or by several of these
    /// flags. The first is shown
    #[arg(
        long,
        env = "PLAYHOUSE_SERVED_MODEL_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub(crate) served_model_name: Vec<String>,
    /// Chat template in place of the model's own: a file, or the text of a Jinja template
    #[arg(long, env = "PLAYHOUSE_CHAT_TEMPLATE", value_name = "FILE_OR_TEXT")]
    pub(crate) chat_template: Option<String>,
    /// Longest sequence, prompt and output together, in tokens; as the model allows by default
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_MODEL_LEN",
        value_name = "TOKENS",
        value_parser = number::count::<NonZeroUsize>
    )]
    pub(crate) max_model_len: Option<NonZeroUsize>,
    /// Sequences in one batch
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_NUM_SEQS",
        value_name = "N",
        default_value = "256",
        value_parser = number::count::<NonZeroUsize>
    )]
    pub(crate) max_num_seqs: NonZeroUsize,
    /// Tokens in one step, prefill chunks and decodes together
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value = "512",
        value_parser = number::count::<NonZeroUsize>
    )]
    pub(crate) max_num_batched_tokens: NonZeroUsize,
    /// Milliseconds that prompts may add to a step, so that running requests do not wait for long prompts
    /// of others; 0 is no limit
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_PREFILL_MS",
        value_name = "MS",
        default_value = "25",
        value_parser = number::whole::<u32>
    )]
    pub(crate) max_prefill_ms: u32,
    /// Steps in flight; by default one more than there are pipeline stages. With one stage, a step
    /// is then begun before the outcome of the last has been seen, if steps are short
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_CONCURRENT_BATCHES",
        value_name = "N",
        value_parser = number::whole::<NonZeroUsize>
    )]
    pub(crate) max_concurrent_batches: Option<NonZeroUsize>,
    /// How long a step may take before its ranks count as hung and are restarted, such as 30s; 0 is no
    /// limit. By default 20 times what such steps took lately, and 2.5s at least
    #[arg(long, env = "PLAYHOUSE_STEP_DEADLINE", value_name = "TIME", value_parser = span::parse)]
    pub(crate) step_deadline: Option<Duration>,
    /// Element type of weights, activations and KV cache; auto keeps that of the checkpoint
    #[arg(long, env = "PLAYHOUSE_DTYPE", default_value = "auto")]
    pub(crate) dtype: DtypeArg,
    /// Memory for the KV caches of all replicas, such as 4GiB; by default what --max-num-seqs
    /// sequences need in each, but no more than 40 % of the available memory, on nodes of that of each
    /// device. What the weights leave of a device is the limit in any case
    #[arg(long, env = "PLAYHOUSE_KV_CACHE_MEMORY", value_name = "BYTES")]
    pub(crate) kv_cache_memory: Option<Bytes>,
    /// Threads that compute, which the ranks share; all cores by default
    #[arg(
        long,
        env = "PLAYHOUSE_THREADS",
        value_name = "N",
        value_parser = number::whole::<NonZeroUsize>
    )]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Whether ranks are threads of this process or processes; threads if there is only one rank
    #[arg(long, env = "PLAYHOUSE_ISOLATION")]
    pub(crate) isolation: Option<Isolation>,
    /// How requests are spread over replicas: prefix, round_robin, least_load, power_of_two or
    /// session (by the x-session-id header)
    #[arg(long, env = "PLAYHOUSE_ROUTING_POLICY", default_value_t, value_name = "POLICY")]
    pub(crate) routing_policy: Policy,
    /// Requests accepted at once, running and waiting; more are refused. By default 8 for each of
    /// --max-num-seqs of every replica
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_QUEUED_REQUESTS",
        value_name = "N",
        value_parser = number::count::<NonZeroU32>
    )]
    pub(crate) max_queued_requests: Option<NonZeroU32>,
    /// Prompt tokens of all accepted requests together; more are refused
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_QUEUED_TOKENS",
        value_name = "TOKENS",
        default_value = "4194304",
        value_parser = number::count::<NonZeroU32>
    )]
    pub(crate) max_queued_tokens: NonZeroU32,
    /// How long requests wait while no replica can serve, such as 500ms, 60s or 2m
    #[arg(
        long,
        env = "PLAYHOUSE_NO_CAPACITY_TIMEOUT",
        value_name = "TIME",
        default_value = "60s",
        value_parser = span::parse
    )]
    pub(crate) no_capacity_timeout: Duration,
    /// From SIGTERM or SIGINT to the end of the process, such as 10s or 2m. Accepted requests may run on
    /// until 5 seconds before that, or a quarter if that is less; then they end with the error
    /// `draining`
    #[arg(
        long,
        env = "PLAYHOUSE_SHUTDOWN_TIMEOUT",
        value_name = "TIME",
        default_value = "28s",
        value_parser = span::shutdown
    )]
    pub(crate) shutdown_timeout: Duration,
    /// Devices of this machine that ranks may have, such as cpu:4, for one rank each; by default as
    /// many as are needed at the start, or none with --cluster-listen
    #[arg(long, env = "PLAYHOUSE_DEVICES", value_name = "TYPE:COUNT")]
    pub(crate) devices: Option<DeviceList>,
    /// Listen here for nodes, and run ranks on those that join
    #[arg(
        long,
        env = "PLAYHOUSE_CLUSTER_LISTEN",
        value_name = "ADDRESS:PORT",
        conflicts_with = "isolation",
        value_parser = number::socket
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
    /// How long the certificates of nodes, of their ranks and of the head are valid, from 5s on, such as
    /// 12h or 30d. They are renewed automatically when two thirds of that are over; a node that is away
    /// for longer joins again
    #[arg(
        long,
        env = "PLAYHOUSE_NODE_CERTIFICATE_LIFETIME",
        value_name = "TIME",
        default_value = "30d",
        value_parser = span::certificate,
        requires = "cluster_listen"
    )]
    pub(crate) node_certificate_lifetime: Duration,
    /// File that holds a valid join token for one node, for as long as the head runs: when a node has
    /// joined with it, another one takes its place. Every user that can read the file can join
    #[arg(
        long,
        env = "PLAYHOUSE_JOIN_TOKEN_FILE",
        value_name = "FILE",
        requires = "cluster_listen"
    )]
    pub(crate) join_token_file: Option<PathBuf>,
    /// Address of the admin API. One that other machines reach needs a token and speaks TLS: by
    /// --ssl-certfile, or with --cluster-listen by the cluster's authority
    #[arg(
        long,
        env = "PLAYHOUSE_ADMIN_HOST",
        default_value = "127.0.0.1",
        value_name = "HOST",
        value_parser = number::host
    )]
    pub(crate) admin_host: IpAddr,
    /// Port of the admin API; 0 takes a free one. By default the one after --port, or a free one if that is
    /// taken
    #[arg(
        long,
        env = "PLAYHOUSE_ADMIN_PORT",
        value_name = "PORT",
        value_parser = number::whole::<u16>
    )]
    pub(crate) admin_port: Option<u16>,
    /// Token of the admin API, better given by the environment, which `ps` does not show; without
    /// one, a new one is made and printed
    #[arg(long, env = "PLAYHOUSE_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) admin_token: Option<String>,
    /// File with the token, in place of --admin-token and its variable
    #[arg(long, env = "PLAYHOUSE_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// Folder that keeps what operators change, so that it survives a restart of the head; made if it
    /// does not exist. Without one, a restart goes back to what the flags say
    #[arg(long, env = "PLAYHOUSE_STATE_DIR", value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
    /// File that two lines of JSON are appended to for each change that operators ask for; nothing is
    /// changed while it cannot be written
    #[arg(long, env = "PLAYHOUSE_AUDIT_LOG", value_name = "FILE")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Key that clients must send; better given by the environment, which `ps` does not show
    #[arg(long, env = "PLAYHOUSE_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// File with the key, in place of --api-key and its variable
    #[arg(long, env = "PLAYHOUSE_API_KEY_FILE", value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// File of several such keys, with a name and limits for each; see docs/operations.md
    #[arg(long, env = "PLAYHOUSE_API_KEYS_FILE", value_name = "FILE",
        conflicts_with_all = ["api_key", "api_key_file"])]
    pub(crate) api_keys_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cors: CorsArgs,
    /// How long the OpenAI API keeps a connection that carries no request, such as 30s or 10m
    #[arg(
        long,
        env = "PLAYHOUSE_TIMEOUT_KEEP_ALIVE",
        value_name = "TIME",
        default_value = "120s",
        value_parser = span::keep_alive
    )]
    pub(crate) timeout_keep_alive: Duration,
    /// Certificate for clients of the OpenAI and the admin API, in PEM; without one, the OpenAI API is
    /// plain HTTP, and so is the admin API on this machine
    #[arg(long, env = "PLAYHOUSE_SSL_CERTFILE", value_name = "FILE", requires = "ssl_keyfile")]
    pub(crate) ssl_certfile: Option<PathBuf>,
    /// Private key of --ssl-certfile, in PEM
    #[arg(long, env = "PLAYHOUSE_SSL_KEYFILE", value_name = "FILE", requires = "ssl_certfile")]
    pub(crate) ssl_keyfile: Option<PathBuf>,
    /// Collector that the spans of requests are sent to over OTLP (http/protobuf), such as
    /// http://localhost:4318 or https://...; OTEL_TRACES_SAMPLER says of which requests. See
    /// docs/observability.md
    #[arg(long, env = "PLAYHOUSE_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_traces_endpoint: Option<String>,
    /// Log each request when its response has ended: client, key, path, status, bytes and milliseconds
    #[arg(long, env = "PLAYHOUSE_ACCESS_LOG", value_parser = BoolishValueParser::new())]
    pub(crate) access_log: bool,
    /// Do not log throughput, queue and caches every ten seconds while the server is busy
    #[arg(
        long,
        env = "PLAYHOUSE_DISABLE_LOG_STATS",
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) disable_log_stats: bool,
    /// How log lines look: pretty, or json for one object each
    #[arg(long, env = "PLAYHOUSE_LOG_FORMAT", default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Makes the seeds of requests without one a fixed sequence
    #[arg(long, env = "PLAYHOUSE_SEED", value_name = "SEED", value_parser = number::whole::<u64>)]
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
