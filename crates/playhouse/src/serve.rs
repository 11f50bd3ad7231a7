//! `playhouse serve`: loads a model, wires the layers together and serves until told to stop.

mod activity;
mod admin;
mod audit;
mod cors;
mod flags;
mod foreign;
mod join_token;
pub(crate) mod keys;
mod parallel;
mod reload;
mod renewals;
mod scrape;
mod shutdown;
mod span;
mod start;
mod state;
mod tls;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, StepDeadline, replica_layout,
};
use playhouse_gateway::{ApiKey, Gateway, GatewayConfig, serve};
use playhouse_layout::GenerationDefaults;
use playhouse_model::Dtype;
use playhouse_rank::sweep_shared_memory;
use playhouse_scheduler::Limits;
use playhouse_telemetry::{LogFormat, Metrics, SpanCounters, TraceSettings, Traces, init_logs};
use playhouse_types::{DecoderSpec, ParallelSpec, Rope, RopeScaling};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::admin::AdminListener;
pub(crate) use self::flags::ServeArgs;
use self::parallel::parallel;
use self::reload::Reload;
use self::shutdown::Shutdown;
use self::start::{AwaitedNodes, Early, Start, not_started};
use self::state::State;
use self::tls::Certificate;
use crate::authority;
use crate::banner::{Banner, Reached, scheme};
use crate::blueprints::Model;
use crate::client::trusting;
use crate::error::CliError;
use crate::isolation::{Devices, Place, Venue};
use crate::layout::{BLOCK_SIZE, ServedLayout};
use crate::layout_flags::ForeignFlag;
use crate::loading::{self, Language, Loaded};
use crate::node::{DeviceList, LOG_FILTER};
use crate::progress;
use crate::secret;
use crate::signals::Signals;
use crate::sizing::{Bytes, CacheSize, available_memory};

/// The default number of accepted requests for each that can run: a queue of a few batches.
const QUEUE_PER_SLOT: u32 = 8;

/// The listeners for clients and operators, with their credentials.
struct Doors {
    listener: TcpListener,
    admin: AdminListener,
    api_keys: Vec<ApiKey>,
    certificate: Option<Arc<Certificate>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    state: State,
}

/// Loads a model, serves it, and drains.
///
/// # Errors
/// Returns any error that keeps the server from starting, and those of its end.
pub(crate) fn run(
    args: &ServeArgs,
    layout: &[String],
    foreign: &[ForeignFlag],
) -> Result<ExitCode, CliError> {
    let mut parallel = parallel(layout)?;
    let notes = foreign::notes(foreign)?;
    let api_keys = api_keys(args)?;
    // Dropped last, so that all spans have been sent by then.
    let traces = traces(args)?;
    init_logs(LOG_FILTER, args.log_format, traces.as_ref())
        .map_err(|why| CliError::failure(why.to_string()))?;
    if args.log_format == LogFormat::Json {
        progress::log();
    }
    notes.iter().for_each(|note| info!("{note}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| CliError::failure(format!("cannot start the async runtime: {why}")))?;
    // The port comes first, because a wrong one is the cheapest to detect.
    let address = SocketAddr::new(args.host, args.port);
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(|why| {
        CliError::failure(format!("cannot listen on {address}: {why}"))
            .hint("another server may be running there; choose a free port with --port")
    })?;
    if api_keys.is_empty() && !args.host.is_loopback() {
        warn!(
            host = %args.host,
            "no API key is set: everyone who reaches this machine can use the API (--api-key-file sets one)"
        );
    }
    let certificate = Certificate::of(args)?;
    let tls = certificate.clone().map(tls::server).transpose()?;
    let admin = runtime.block_on(AdminListener::bind(args, tls.clone()))?;
    let state = State::open(args.state_dir.as_deref(), &mut parallel)?;
    sweep_shared_memory();
    let (loaded, language) = loading::load(args.model.as_deref(), args.chat_template.as_deref())?;
    let dtype = Dtype::from(args.dtype).or(loaded.shape.dtype);
    let shape = &loaded.shape;
    let served = ServedLayout::new(&loaded.checkpoint, &parallel, shape, dtype)?;
    let (limits, cache) = limits(args, &shape.spec, &served)?;
    let doors = Doors { listener, admin, api_keys, certificate, tls, state };
    let spans = traces.as_ref().map(|traces| traces.counters().clone()).unwrap_or_default();
    let model =
        ServedModel { spans, loaded: Arc::new(loaded), language, parallel, served, limits, cache };
    let shutdown = Shutdown::new(args.shutdown_timeout);
    let ended = runtime.block_on(run_cluster(args, doors, model, &shutdown));
    // A tokenizer or a file system may still occupy one of the runtime's threads.
    runtime.shutdown_timeout(shutdown.rest());
    ended
}

/// The model that is served, and its first layout.
struct ServedModel {
    loaded: Arc<Loaded>,
    language: Language,
    parallel: ParallelSpec,
    served: ServedLayout,
    limits: Limits,
    cache: CacheSize,
    spans: SpanCounters,
}

async fn run_cluster(
    args: &ServeArgs,
    doors: Doors,
    model: ServedModel,
    shutdown: &Shutdown,
) -> Result<ExitCode, CliError> {
    let Doors { listener, admin, api_keys, certificate, tls, state } = doors;
    let ServedModel { loaded, language, parallel, served, limits, cache, spans } = model;
    let mut signals = Signals::install()
        .map_err(|why| CliError::failure(format!("cannot handle signals: {why}")))?;
    let reload = Reload::install(args.api_keys_file.clone(), certificate.clone());
    let reload =
        reload.map_err(|why| CliError::failure(format!("cannot handle signals: {why}")))?;
    let address = listener.local_addr().map_err(|why| CliError::failure(why.to_string()))?;
    let mut config = gateway_config(args, &loaded, api_keys);
    config.tls = tls;
    shutdown.limit(&mut config.limits);
    let metrics =
        Arc::new(Metrics::of_head(&config.served_model_names[0], &spans, state.ledger.outcomes()));
    let tell_renewal = renewals::noted(Arc::clone(&metrics), admin.audit());
    let venue = Venue::new(place(args, &served)?, &loaded, tell_renewal)?;
    let reached = Reached { address, admin: &admin.text, state: &state.text };
    let banner = Banner::new(&config, &loaded, &served, &venue, (&limits, cache), reached);
    let (control, devices, weights) =
        (venue.control().cloned(), venue.devices, venue.weights.clone());
    let blueprints = Model {
        loaded: Arc::clone(&loaded),
        dtype: served.dtype,
        venue,
        limits,
        cache,
        micro_batch_max: parallel.micro_batch_max,
        concurrent_batches: args.max_concurrent_batches.map(NonZeroUsize::get),
    }
    .blueprints();
    let desired = Desired { replicas: served.replicas.get(), layout: replica_layout(&parallel) };
    let api = format!("{}://{address}", scheme(config.tls.is_some()));
    let start = Start {
        blueprints: blueprints.clone(),
        layout: desired.layout.clone(),
        shows_loading: control.is_some(),
        nodes: control.clone().filter(|_| args.cluster_listen.is_some()).map(|control| {
            AwaitedNodes {
                join_token_file: args.join_token_file.clone(),
                banner: Banner::waiting(control.address(), served.world(), &admin.text, &api),
                control,
            }
        }),
    };
    let spec = &loaded.shape.spec;
    let deployment = DeploymentConfig {
        desired,
        blueprints,
        limits,
        weights,
        admission: admission(args, &limits),
        vocab: u32::try_from(spec.vocab).unwrap_or(u32::MAX),
        shared_prompt_max: shared_prompt_max(spec),
        step_deadline: step_deadline(args),
        policy: args.routing_policy,
        control,
        devices,
        metrics: Arc::clone(&metrics),
        ledger: state.ledger,
    };
    let cluster = Cluster::open(deployment).await.map_err(not_started)?;
    scrape::look_up(&metrics, cluster.overview(), certificate);
    admin.serve(cluster.overview());
    let Language { tokenizer, template } = language;
    let gateway = Gateway::new(config, cluster.front_door().clone(), tokenizer, template, metrics)
        .map_err(|why| CliError::failure(why.to_string()))?;
    if let Some(reload) = reload {
        tokio::spawn(reload.serve(gateway.keys().clone()));
    }
    // Clients are answered from now on; what they ask for waits until a replica serves.
    let (end, ended) = oneshot::channel::<()>();
    let api = tokio::spawn(serve(listener, gateway, async move { drop(ended.await) }));
    let started = tokio::select! {
        started = start.run(&cluster) => started.and_then(|()| banner.print()).map_err(Early::Failure),
        signal = signals.next() => Err(Early::Signal(signal)),
    };
    if let Err(early) = started {
        let why = match early {
            Early::Failure(why) => {
                signals.stop_at_next();
                why
            }
            Early::Signal(signal) => {
                shutdown.begin(signal, signals);
                CliError::failure(format!("stopped by {signal} before the model was loaded"))
            }
        };
        if cluster.front_door().in_flight() == 0 {
            // There is nothing to drain.
            api.abort();
        }
        drop(end);
        shutdown.give_up(cluster, api).await;
        return Err(why);
    }
    let mut tasks = JoinSet::new();
    if !args.disable_log_stats {
        tasks.spawn(activity::log(cluster.front_door().clone()));
    }
    shutdown.signal(signals).await;
    drop(end);
    let drained = api.await.map_err(|why| CliError::failure(why.to_string()))?;
    let outcome = shutdown.outcome(drained);
    shutdown.stop(cluster).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Returns the collector of traces, if there is one.
fn traces(args: &ServeArgs) -> Result<Option<Traces>, CliError> {
    let flag = args.otlp_traces_endpoint.as_deref();
    let settings = TraceSettings::read(flag, |name| std::env::var(name).ok());
    let settings = settings.map_err(|why| CliError::usage(why.to_string()))?;
    let traces = settings.map(|settings| Traces::start(settings, trusting)).transpose();
    traces.map_err(|why| CliError::failure(why.to_string()))
}

/// Returns the bounds of the front door.
fn admission(args: &ServeArgs, limits: &Limits) -> AdmissionLimits {
    let slots = u32::try_from(limits.max_num_seqs).unwrap_or(u32::MAX);
    let each = Capacity::EachReplica(slots.saturating_mul(QUEUE_PER_SLOT));
    AdmissionLimits {
        requests: args.max_queued_requests.map_or(each, |most| Capacity::Fixed(most.get())),
        prompt_tokens: args.max_queued_tokens.get(),
        no_capacity_timeout: args.no_capacity_timeout,
    }
}

/// Returns the bounds of the scheduler, from the flags, checked against the model and the memory. On
/// nodes, each replica has the KV cache that its devices can hold, which is that of one sequence at
/// least.
fn limits(
    args: &ServeArgs,
    spec: &DecoderSpec,
    served: &ServedLayout,
) -> Result<(Limits, CacheSize), CliError> {
    let max_model_len = args.max_model_len.map_or(spec.max_positions, NonZeroUsize::get);
    if max_model_len > spec.max_positions {
        return Err(CliError::usage(format!(
            "--max-model-len {max_model_len} is more than the {} positions the model was made for \
             (max_position_embeddings and rope scaling in config.json)",
            spec.max_positions
        )));
    }
    // The bytes of one block of each replica.
    let block = Bytes(served.bytes_per_block * u64::from(served.replicas.get()));
    let on_nodes = args.cluster_listen.is_some();
    let cache = CacheSize::new(
        block,
        BLOCK_SIZE,
        max_model_len,
        args.max_num_seqs.get(),
        args.kv_cache_memory,
        (!on_nodes).then(available_memory),
    )
    .map_err(|why| CliError::usage(why.to_string()))?;
    let limits = Limits {
        max_num_seqs: args.max_num_seqs.get(),
        max_num_batched_tokens: args.max_num_batched_tokens.get(),
        prefill_time: match args.max_prefill_ms {
            0 => Duration::MAX,
            ms => Duration::from_millis(ms.into()),
        },
        max_model_len,
        kv_blocks: if on_nodes { cache.least } else { cache.most },
        block_size: BLOCK_SIZE,
        prefix_caching: true,
        // The layout determines the rest.
        micro_batches: 1,
        micro_batch_max: usize::MAX,
        lookahead: false,
    };
    Ok((limits, cache))
}

/// Returns the place where ranks are to run.
fn place(args: &ServeArgs, served: &ServedLayout) -> Result<Place, CliError> {
    let devices = args.devices.map(DeviceList::count);
    let world = served.world();
    if let Some(count) = devices.filter(|count| *count < world && args.cluster_listen.is_none()) {
        return Err(CliError::usage(format!(
            "--devices cpu:{count}: the layout has {world} ranks, and each needs a device"
        )));
    }
    Ok(match args.cluster_listen {
        None => Place::local(args.isolation, world, devices, args.threads),
        Some(address) => {
            let devices = devices.map(|count| Devices::new(count, args.threads));
            let mut trust = authority::read(&args.cluster_dir)?;
            trust.authority = trust.authority.with_lifetime(args.node_certificate_lifetime);
            Place::Nodes(address, Box::new(trust), devices)
        }
    })
}

fn step_deadline(args: &ServeArgs) -> StepDeadline {
    match args.step_deadline {
        None => StepDeadline::Measured,
        Some(Duration::ZERO) => StepDeadline::Never,
        Some(limit) => StepDeadline::Fixed(limit),
    }
}

/// Returns the API keys.
fn api_keys(args: &ServeArgs) -> Result<Vec<ApiKey>, CliError> {
    let one =
        secret::asked_for("--api-key", args.api_key.as_deref(), args.api_key_file.as_deref())?;
    match (one, &args.api_keys_file) {
        (Some(key), _) => Ok(vec![ApiKey::new("api-key", &key)]),
        (None, Some(file)) => keys::read(file),
        (None, None) => Ok(Vec::new()),
    }
}

/// Returns the length of the longest prompt whose keys and values do not depend on its length, so that
/// another prompt may share them.
fn shared_prompt_max(spec: &DecoderSpec) -> usize {
    let of = |rope: &Rope| match rope.scaling {
        RopeScaling::Dynamic { original_max, .. } => original_max,
        _ => usize::MAX,
    };
    spec.ropes.iter().map(of).min().unwrap_or(usize::MAX)
}

fn gateway_config(args: &ServeArgs, loaded: &Loaded, api_keys: Vec<ApiKey>) -> GatewayConfig {
    let GenerationDefaults {
        eos_token_ids,
        temperature,
        top_p,
        top_k,
        min_p,
        repetition_penalty,
        max_tokens,
    } = loaded.generation.clone();
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
    sampling.max_tokens = max_tokens;
    config.eos_tokens = eos_token_ids;
    config.api_keys = api_keys;
    config.seed = args.seed;
    config.access_log = args.access_log;
    config.cors = args.cors.cors();
    config.limits.idle_timeout = args.timeout_keep_alive;
    config
}
