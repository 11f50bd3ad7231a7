//! `playhouse node`: offers the devices of this machine to a head.

mod folder;
pub(crate) mod health;
mod joining;

use std::env;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::Args;
use playhouse_cluster::{Child, Device, HeadAddress, NodeConfig, Way, run_node};
use playhouse_link::Identity;
use playhouse_rank::sweep_shared_memory;
use playhouse_telemetry::{LogFormat, init_logs};
use tokio::sync::watch;

use crate::error::CliError;
use crate::signals::Signals;
use crate::sizing::{Bytes, available_memory};

/// The default filter of the log; `RUST_LOG` overrides it.
pub(crate) const LOG_FILTER: &str = "warn,playhouse_cluster=info,playhouse_gateway=info,playhouse_telemetry=info,\
     playhouse::progress=info,playhouse::serve=info";

/// Offer the devices of this machine to a head, and run the ranks it places here.
#[derive(Args)]
pub(crate) struct NodeArgs {
    /// Where the head listens for nodes (its --cluster-listen). A name is looked up whenever the node
    /// dials, so the head may come back with another address
    #[arg(long, env = "PLAYHOUSE_JOIN", value_name = "HOST:PORT")]
    join: String,
    /// Token that lets this node in, from `playhouse token create`; needed once, and again if it was
    /// away until its certificate ended. Better given by the environment, which `ps` does not show
    #[arg(long, env = "PLAYHOUSE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the token, in place of --token and its variable. If the head keeps it
    /// (--join-token-file), each node that starts takes the token that is in it then
    #[arg(long, env = "PLAYHOUSE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Name of the node, unique in the cluster; by default the one that it joined by, or else that of
    /// its host
    #[arg(long, env = "PLAYHOUSE_NODE_NAME")]
    name: Option<String>,
    /// Devices to offer, such as cpu:2 for two halves of the cores
    #[arg(long, env = "PLAYHOUSE_DEVICES", default_value = "cpu:1", value_name = "TYPE:COUNT")]
    devices: DeviceList,
    /// Memory that ranks may use here, such as 48GiB, of which each device is an equal share; by default
    /// what is available when the node starts. A rank that does not fit is placed elsewhere
    #[arg(long, env = "PLAYHOUSE_NODE_MEMORY", value_name = "BYTES")]
    memory: Option<Bytes>,
    /// Folder that keeps the node's certificate, which is renewed in time, so that it can come back
    /// without a token. One process has it at a time
    #[arg(long, env = "PLAYHOUSE_NODE_DIR", default_value = "playhouse-node", value_name = "DIR")]
    dir: PathBuf,
    /// How log lines look: pretty, or json for one object each
    #[arg(long, env = "PLAYHOUSE_LOG_FORMAT", default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

/// A number of devices, each an equal share of the machine's cores.
#[derive(Clone, Copy)]
pub(crate) struct DeviceList(NonZeroU32);

/// Joins the head, runs its ranks, and leaves on a signal.
///
/// # Errors
/// Returns an error when the head cannot be reached or does not admit the node.
pub(crate) fn run(args: &NodeArgs) -> Result<ExitCode, CliError> {
    init_logs(LOG_FILTER, args.log_format, None)
        .map_err(|why| CliError::failure(why.to_string()))?;
    let Bytes(memory_bytes) = args.memory.unwrap_or_else(available_memory);
    let devices = args.devices.devices(memory_bytes)?;
    sweep_shared_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| CliError::failure(format!("cannot start the async runtime: {why}")))?;
    let program = env::current_exe()
        .map_err(|why| CliError::failure(format!("cannot find this program's own file: {why}")))?;
    runtime.block_on(async {
        let mut signals = Signals::install()
            .map_err(|why| CliError::failure(format!("cannot handle signals: {why}")))?;
        let joining = async {
            let head = HeadAddress::new(&args.join);
            let found = joining::resolve(&head).await?;
            let identity = joining::identity(args, &head).await?;
            Ok::<_, CliError>((head, found, identity))
        };
        // The lock comes before any connection: the process that has the folder has its name as well.
        let _folder = folder::lock(&args.dir, args.has_token())?;
        let (head, found, identity) = tokio::select! {
            joined = joining => joined?,
            signal = signals.next() => {
                let why = format!("stopped by {signal} before it had joined");
                return Err(CliError::failure(why));
            }
        };
        let (joined, is_joined) = watch::channel(false);
        health::tell(&args.dir, &args.join, is_joined);
        let way = Way::new(head, found, &identity);
        let way = way.map_err(|why| CliError::failure(why.to_string()))?;
        let children = Child::starter(program);
        let dir = args.dir.clone();
        let keep = Arc::new(move |identity: &Identity| joining::keep(&dir, identity));
        let config = NodeConfig { way, children, devices, memory_bytes, joined, keep };
        let stop = async move {
            signals.next().await;
        };
        run_node(config, stop).await.map_err(|why| CliError::failure(why.to_string()))
    })?;
    Ok(ExitCode::SUCCESS)
}

// === impl NodeArgs ===

impl NodeArgs {
    /// Returns whether a token was given, or a file that has one or will have one.
    fn has_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }
}

// === impl DeviceList ===

impl DeviceList {
    /// Returns the number of devices.
    pub(crate) fn count(self) -> usize {
        self.0.get() as usize
    }

    /// Returns devices that are equal shares of this machine's cores and of so much memory.
    fn devices(self, memory_bytes: u64) -> Result<Vec<Device>, CliError> {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let count = self.0.get() as usize;
        if count > cores {
            return Err(CliError::usage(format!(
                "--devices cpu:{count}: this machine has {cores} cores, and each device needs one"
            )));
        }
        let threads = u32::try_from(cores / count).unwrap_or(u32::MAX);
        Ok(vec![Device { memory_bytes: memory_bytes / count as u64, threads }; count])
    }
}

impl FromStr for DeviceList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write cpu:COUNT, such as cpu:2";
        match text.split_once(':') {
            Some(("cpu", count)) => match count.parse() {
                Ok(count) => Ok(Self(count)),
                Err(_) => Err(format!("`{count}` is no number of devices; {how}")),
            },
            Some(("cuda", _)) => Err(format!("this build knows no GPUs; {how}")),
            _ => Err(how.to_owned()),
        }
    }
}
