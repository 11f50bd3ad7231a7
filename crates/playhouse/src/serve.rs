//! `playhouse serve`: loads a model, wires the layers together and serves until told to stop.

mod admin;
mod flags;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{AdmissionLimits, Cluster, DeploymentConfig, StartError};
use playhouse_gateway::{Gateway, GatewayConfig, serve};
use playhouse_model::{Dtype, GenerationDefaults, ModelConfig};
use playhouse_planner::dialect::{self, Dialect, Parameters};
use playhouse_scheduler::Limits;
use playhouse_telemetry::{Metrics, init_logs};
use playhouse_types::{DecoderSpec, ParallelSpec, RopeScaling};
use tokio::net::TcpListener;
use tracing::{info, warn};

pub(crate) use self::admin::AdminListener;
pub(crate) use self::flags::ServeArgs;
use crate::authority;
use crate::banner::Banner;
use crate::error::CliError;
use crate::isolation::{Place, Venue};
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
    let admin = runtime.block_on(AdminListener::bind(args))?;
    let loaded = loading::load(args.model.as_deref())?;
    let dtype = Dtype::from(args.dtype).or(loaded.config.dtype);
    let spec = &loaded.config.spec;
    let served = ServedLayout::new(&loaded.checkpoint, &parallel, spec, dtype)?;
    let limits = limits(args, spec, &served)?;
    runtime.block_on(run_cluster(args, listener, admin, loaded, served, limits))
}

/// The layout that the flags ask for.
fn parallel(layout: &[String]) -> Result<ParallelSpec, CliError> {
    let reading = dialect::read(Dialect::Native, layout, &[]).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        CliError::usage(lines.join("\nerror: "))
    })?;
    // What `plan` understands and a server would have to obey.
    let Parameters { nodes, node_rank, devices_per_node, quantization, kv_dtype, .. } =
        &reading.parameters;
    let Parameters { context_tokens, dtype, requests_max, batch_tokens_max, .. } =
        &reading.parameters;
    let Parameters { block_tokens, memory_fraction, expert_slots, .. } = &reading.parameters;
    let nodes = nodes.or(*node_rank).or(*devices_per_node).is_some();
    let other = dtype.is_some() || expert_slots.is_some();
    let refused = [
        (reading.model.is_some(), "give the model without --model, as the first argument"),
        (nodes, "machines join by `playhouse node`; see docs/cluster.md"),
        (quantization.is_some(), "this version serves weights as bf16, f16 or f32 (--dtype)"),
        (kv_dtype.is_some(), "the KV cache has the type of the weights (--dtype)"),
        (block_tokens.is_some(), "a KV block has 16 tokens"),
        (memory_fraction.is_some(), "give the memory of the KV cache as --kv-cache-memory"),
        (context_tokens.is_some(), "`serve` spells it --max-model-len, in plain tokens"),
        (requests_max.is_some(), "`serve` spells it --max-num-seqs"),
        (batch_tokens_max.is_some(), "`serve` spells it --max-num-batched-tokens"),
        (other, "`serve` has no such setting"),
    ];
    let refused: Vec<_> = refused.iter().filter(|(given, _)| *given).map(|(_, why)| *why).collect();
    if refused.is_empty() {
        return Ok(reading.spec);
    }
    let words = layout.join(" ").escape_debug().to_string();
    Err(CliError::usage(format!("not served as asked for by `{words}`: {}", refused.join("; "))))
}

async fn run_cluster(
    args: &ServeArgs,
    listener: TcpListener,
    admin: AdminListener,
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
        Some(address) => Place::Nodes(address, Box::new(authority::read(&args.cluster_dir)?)),
    };
    let awaits_nodes = matches!(place, Place::Nodes(..));
    let venue = Venue::new(place, &loaded, &served, &limits)?;
    if let Some(control) = venue.control.as_ref().filter(|_| awaits_nodes) {
        Banner::waiting(control.address(), served.world(), &admin).print()?;
    }
    let banner = Banner::new(&config, &loaded, &served, &venue, &limits, address, &admin);
    let Loaded { config: ModelConfig { spec, .. }, tokenizer, template, .. } = loaded;

    let deployment = DeploymentConfig {
        limits,
        admission: AdmissionLimits {
            requests: u32::try_from(limits.max_num_seqs)
                .unwrap_or(u32::MAX)
                .saturating_mul(QUEUE_PER_SEAT)
                .saturating_mul(served.replicas.get()),
            prompt_tokens: QUEUED_TOKENS_MAX,
        },
        vocab: u32::try_from(spec.vocab).unwrap_or(u32::MAX),
        shared_prompt_max: match spec.rope.scaling {
            RopeScaling::Dynamic { original_max, .. } => original_max,
            _ => usize::MAX,
        },
        replicas: served.replicas,
        layout: served.layout,
        concurrent_batches: concurrent_batches(args, &served),
        shares: served.shares,
        policy: args.routing_policy,
        starter: venue.starter,
        control: venue.control,
        metrics: Arc::clone(&metrics),
    };
    let failed = |why: StartError| CliError::failure(why.to_string());
    let cluster = Cluster::start(deployment).await.map_err(failed)?;
    admin.serve(cluster.overview());
    let serving = tokio::select! {
        serving = cluster.serving() => serving.map_err(failed),
        signal = signals.next() => {
            Err(CliError::failure(format!("stopped by {signal} before the model was loaded")))
        }
    };
    if let Err(why) = serving {
        cluster.stop(Duration::ZERO).await;
        return Err(why);
    }
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
        // A pipeline that has one step at a time need not split its batch.
        micro_batches: served.layout.stages.min(concurrent_batches(args, served)),
        micro_batch_max: served.micro_batch_max,
        prefix_caching: true,
    })
}

/// Steps in flight: see [`DeploymentConfig`].
fn concurrent_batches(args: &ServeArgs, served: &ServedLayout) -> usize {
    let stages = served.layout.stages;
    let by_default = if stages == 1 { 1 } else { stages + 1 };
    args.max_concurrent_batches.map_or(by_default, NonZeroUsize::get)
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
