//! `playhouse serve`: loads a model, wires the layers together and serves until told to stop.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use playhouse_cluster::{AdmissionLimits, Cluster, DeploymentConfig, StartError};
use playhouse_gateway::{Gateway, GatewayConfig, serve};
use playhouse_model::{Dtype, GenerationDefaults, ModelConfig};
use playhouse_planner::dialect::{self, Dialect};
use playhouse_scheduler::Limits;
use playhouse_telemetry::{Metrics, init_logs};
use playhouse_types::{DecoderSpec, ParallelSpec, RopeScaling};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::authority;
use crate::banner::Banner;
use crate::error::CliError;
use crate::isolation::{Isolation, Place, Venue};
use crate::layout::ServedLayout;
use crate::loading::{self, Loaded};
use crate::signals::Signals;
use crate::sizing::{self, Bytes};

/// How long accepted requests may go on after the first signal. Kubernetes kills after 30 s.
const DRAIN_DEADLINE: Duration = Duration::from_secs(28);

/// Requests in the house for each that can run: a queue of a few batches.
const QUEUE_PER_SEAT: u32 = 8;

/// Prompt tokens in the house at once, over all requests.
const QUEUED_TOKENS_MAX: u32 = 4 << 20;

/// Serve a model over the OpenAI API.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Folder of a Hugging Face checkpoint; without one, the small model inside the binary
    pub(crate) model: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, env = "PLAYHOUSE_HOST", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "PLAYHOUSE_PORT", default_value_t = 8000)]
    port: u16,
    /// Names that clients may call the model by; the first one is shown
    #[arg(long, env = "PLAYHOUSE_SERVED_MODEL_NAME", num_args = 1.., value_name = "NAME")]
    served_model_name: Vec<String>,
    /// Longest sequence, prompt and output together, in tokens; as the model allows by default
    #[arg(long, env = "PLAYHOUSE_MAX_MODEL_LEN", value_name = "TOKENS")]
    max_model_len: Option<NonZeroUsize>,
    /// Sequences in one batch
    #[arg(long, env = "PLAYHOUSE_MAX_NUM_SEQS", value_name = "N", default_value = "256")]
    max_num_seqs: NonZeroUsize,
    /// Tokens in one step, prefill chunks and decodes together
    #[arg(
        long,
        env = "PLAYHOUSE_MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value = "512"
    )]
    max_num_batched_tokens: NonZeroUsize,
    /// Element type of weights, activations and KV cache; auto keeps that of the checkpoint
    #[arg(long, env = "PLAYHOUSE_DTYPE", default_value = "auto")]
    dtype: DtypeArg,
    /// Memory for the KV caches of all replicas, such as 4GiB; by default what --max-num-seqs
    /// sequences need in each, but no more than 40 % of the available memory
    #[arg(long, env = "PLAYHOUSE_KV_CACHE_MEMORY", value_name = "BYTES")]
    kv_cache_memory: Option<Bytes>,
    /// Threads that compute, which the ranks share; all cores by default
    #[arg(long, env = "PLAYHOUSE_THREADS", value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Whether ranks are threads of this process or processes; threads if there is only one rank
    #[arg(long, env = "PLAYHOUSE_ISOLATION")]
    isolation: Option<Isolation>,
    /// Listen here for nodes, and run all ranks on those that join
    #[arg(
        long,
        env = "PLAYHOUSE_CLUSTER_LISTEN",
        value_name = "ADDRESS:PORT",
        conflicts_with_all = ["isolation", "threads"]
    )]
    cluster_listen: Option<SocketAddr>,
    /// Folder of the cluster's certificate authority, as `playhouse cluster init` made it
    #[arg(
        long,
        env = "PLAYHOUSE_CLUSTER_DIR",
        value_name = "DIR",
        default_value = authority::DEFAULT_DIR
    )]
    cluster_dir: PathBuf,
    /// Key that clients must send; better given by the environment, which `ps` does not show
    #[arg(long, env = "PLAYHOUSE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Makes the seeds of requests without one a fixed sequence
    #[arg(long, env = "PLAYHOUSE_SEED", value_name = "SEED")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    Auto,
    #[value(alias = "bfloat16")]
    Bf16,
    #[value(aliases = ["float16", "half"])]
    F16,
    #[value(aliases = ["float32", "float"])]
    F32,
}

/// Loads, serves, drains.
///
/// # Errors
/// Whatever keeps the server from starting, before a single request was accepted.
pub(crate) fn run(args: &ServeArgs, layout: &[String]) -> Result<ExitCode, CliError> {
    let parallel = parallel(layout)?;
    init_logs("warn,playhouse_cluster=info").map_err(|why| CliError::failure(why.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| CliError::failure(format!("cannot start the async runtime: {why}")))?;
    // The port comes first: it is the cheapest thing that can be wrong.
    let address = SocketAddr::new(args.host, args.port);
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(|why| {
        CliError::failure(format!("cannot listen on {address}: {why}"))
            .hint("another server may be running there; choose a free port with --port")
    })?;
    let loaded = loading::load(args.model.as_deref())?;
    let dtype = Dtype::from(args.dtype).or(loaded.config.dtype);
    let spec = &loaded.config.spec;
    let served = ServedLayout::new(&loaded.checkpoint, &parallel, spec, dtype)?;
    let limits = limits(args, spec, &served)?;
    runtime.block_on(run_cluster(args, listener, loaded, served, limits))
}

/// The layout that the flags ask for.
fn parallel(layout: &[String]) -> Result<ParallelSpec, CliError> {
    let reading = dialect::read(Dialect::Native, layout, &[]).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        CliError::usage(lines.join("\nerror: "))
    })?;
    Ok(reading.spec)
}

async fn run_cluster(
    args: &ServeArgs,
    listener: TcpListener,
    loaded: Loaded,
    served: ServedLayout,
    limits: Limits,
) -> Result<ExitCode, CliError> {
    let mut signals = Signals::install()
        .map_err(|why| CliError::failure(format!("cannot handle signals: {why}")))?;
    let address = listener.local_addr().map_err(|why| CliError::failure(why.to_string()))?;
    let config = gateway_config(args, &loaded);
    let metrics = Arc::new(Metrics::new(&config.served_model_names[0]));
    let place = match args.cluster_listen {
        None => Place::local(args.isolation, served.world(), args.threads),
        Some(address) => Place::Nodes(address, authority::read(&args.cluster_dir)?),
    };
    let venue = Venue::new(place, &loaded, &served, &limits)?;
    let banner = Banner::new(&config, &loaded, &served, &venue, &limits, address);
    let Loaded { config: ModelConfig { spec, .. }, tokenizer, template, .. } = loaded;

    let deployment = DeploymentConfig {
        limits,
        admission: AdmissionLimits {
            requests: u32::try_from(limits.max_num_seqs).unwrap_or(u32::MAX) * QUEUE_PER_SEAT,
            prompt_tokens: QUEUED_TOKENS_MAX,
        },
        vocab: u32::try_from(spec.vocab).unwrap_or(u32::MAX),
        shared_prompt_max: match spec.rope.scaling {
            RopeScaling::Dynamic { original_max, .. } => original_max,
            _ => usize::MAX,
        },
        replicas: served.replicas,
        layout: served.layout,
        shares: served.shares,
        starter: venue.starter,
        control: venue.control,
        metrics: Arc::clone(&metrics),
    };
    let failed = |why: StartError| CliError::failure(why.to_string());
    let cluster = Cluster::start(deployment).await.map_err(failed)?;
    // A signal before the model is there ends the process, and with it every rank.
    cluster.serving().await.map_err(failed)?;
    let door = cluster.front_door().clone();
    let gateway = Gateway::new(config, door.clone(), tokenizer, template, metrics)
        .map_err(|why| CliError::failure(why.to_string()))?;
    banner.print()?;

    let drain = async move {
        let signal = signals.next().await;
        info!(signal, in_flight = door.in_flight(), "draining; a second signal stops at once");
        signals.stop_at_next();
        door.start_drain();
        if tokio::time::timeout(DRAIN_DEADLINE, door.drained()).await.is_err() {
            warn!(in_flight = door.in_flight(), "drain deadline passed");
        }
    };
    serve(listener, gateway, drain).await;
    let left = cluster.stop(Duration::ZERO).await;
    if left > 0 {
        return Err(CliError::failure(format!("{left} requests were cut off by the shutdown")));
    }
    Ok(ExitCode::SUCCESS)
}

/// The scheduler's bounds: what was asked for, checked against the model and the memory.
fn limits(args: &ServeArgs, spec: &DecoderSpec, served: &ServedLayout) -> Result<Limits, CliError> {
    let max_model_len = args.max_model_len.map_or(spec.max_positions, NonZeroUsize::get);
    if max_model_len > spec.max_positions {
        return Err(CliError::usage(format!(
            "--max-model-len {max_model_len} is more than the {} positions the model was made for \
             (max_position_embeddings and rope scaling in config.json)",
            spec.max_positions
        )));
    }
    // One block of each replica.
    let block = Bytes(served.bytes_per_block * u64::from(served.replicas.get()));
    let kv_blocks = sizing::kv_blocks(
        block,
        max_model_len,
        args.max_num_seqs.get(),
        args.kv_cache_memory,
        sizing::available_memory(),
    )
    .map_err(|why| CliError::usage(why.to_string()))?;
    Ok(Limits {
        max_num_seqs: args.max_num_seqs.get(),
        max_num_batched_tokens: args.max_num_batched_tokens.get(),
        max_model_len,
        kv_blocks,
        stages: served.layout.stages,
        prefix_caching: true,
    })
}

fn gateway_config(args: &ServeArgs, loaded: &Loaded) -> GatewayConfig {
    let GenerationDefaults { eos_token_ids, temperature, top_p, top_k, min_p, repetition_penalty } =
        loaded.generation.clone();
    let mut config = GatewayConfig::new(&loaded.name);
    if !args.served_model_name.is_empty() {
        config.served_model_names.clone_from(&args.served_model_name);
    }
    let sampling = &mut config.sampling;
    sampling.temperature = temperature.unwrap_or(sampling.temperature);
    sampling.top_p = top_p.unwrap_or(sampling.top_p);
    sampling.top_k = top_k.unwrap_or(sampling.top_k);
    sampling.min_p = min_p.unwrap_or(sampling.min_p);
    sampling.repetition_penalty = repetition_penalty.unwrap_or(sampling.repetition_penalty);
    config.eos_tokens = eos_token_ids;
    config.api_key = args.api_key.clone();
    config.seed = args.seed;
    config
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
