//! `playhouse node`: offers the devices of this machine to a head.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread::available_parallelism;
use std::{env, fs};

use clap::Args;
use playhouse_cluster::{Device, HEAD, NodeConfig, run_node};
use playhouse_link::{Identity, JoinToken, LinkConfig, join};
use playhouse_telemetry::init_logs;
use playhouse_wire::{PeerId, Role};

use crate::authority;
use crate::error::CliError;
use crate::signals::Signals;
use crate::sizing::available_memory;

const IDENTITY: &str = "identity";

/// Offer the devices of this machine to a head, and run the ranks it places here.
#[derive(Args)]
pub(crate) struct NodeArgs {
    /// Where the head listens for nodes (its --cluster-listen)
    #[arg(long, env = "PLAYHOUSE_JOIN", value_name = "HOST:PORT")]
    join: String,
    /// Token that lets this node in, from `playhouse token create`; needed once. Better given by the
    /// environment, which `ps` does not show
    #[arg(long, env = "PLAYHOUSE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Name of the node, unique in the cluster
    #[arg(long, env = "PLAYHOUSE_NODE_NAME")]
    name: String,
    /// Devices to offer, such as cpu:2 for two halves of the cores
    #[arg(long, env = "PLAYHOUSE_DEVICES", default_value = "cpu:1", value_name = "TYPE:COUNT")]
    devices: DeviceList,
    /// Folder that keeps the node's certificate, so that it can come back without a token
    #[arg(long, env = "PLAYHOUSE_NODE_DIR", default_value = "playhouse-node", value_name = "DIR")]
    dir: PathBuf,
}

/// So many equal shares of the machine's cores.
#[derive(Clone, Copy)]
struct DeviceList(NonZeroU32);

/// Joins, serves the head, and leaves on a signal.
///
/// # Errors
/// When the head cannot be reached or does not let the node in.
pub(crate) fn run(args: &NodeArgs) -> Result<ExitCode, CliError> {
    init_logs("warn,playhouse_cluster=info").map_err(|why| CliError::failure(why.to_string()))?;
    let devices = args.devices.devices()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| CliError::failure(format!("cannot start the async runtime: {why}")))?;
    let program = env::current_exe()
        .map_err(|why| CliError::failure(format!("cannot find this program's own file: {why}")))?;
    runtime.block_on(async {
        let mut signals = Signals::install()
            .map_err(|why| CliError::failure(format!("cannot handle signals: {why}")))?;
        let head = resolve(&args.join)?;
        let identity = identity(args, head).await?;
        let memory_bytes = available_memory().0;
        let config = NodeConfig { head, identity, program, devices, memory_bytes };
        let stop = async move {
            signals.next().await;
        };
        run_node(config, stop).await.map_err(|why| CliError::failure(why.to_string()))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn resolve(head: &str) -> Result<SocketAddr, CliError> {
    let resolved = head.to_socket_addrs().map(|mut addresses| addresses.next());
    match resolved {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(CliError::failure(format!("--join {head}: the name has no address"))),
        Err(why) => Err(CliError::usage(format!("--join {head}: {why}"))
            .hint("write the host and the port of the head, such as 10.0.0.1:7100")),
    }
}

/// The identity kept from an earlier start, or a new one for the token.
async fn identity(args: &NodeArgs, head: SocketAddr) -> Result<Identity, CliError> {
    if args.name == HEAD {
        return Err(CliError::usage(format!(
            "--name {HEAD}: the head's own machine has this name"
        )));
    }
    let file = args.dir.join(IDENTITY);
    let failed = |why: String| CliError::failure(format!("{}: {why}", file.display()));
    if file.exists() {
        let kept = fs::read(&file).map_err(|why| failed(why.to_string()))?;
        let kept = Identity::from_bytes(&kept).map_err(|why| failed(why.to_string()))?;
        if kept.peer().name() == args.name {
            return Ok(kept);
        }
        return Err(failed(format!("it is of the node {}", kept.peer().name()))
            .hint(format!("give another --dir for the node {}", args.name)));
    }
    let Some(token) = &args.token else {
        return Err(CliError::usage(format!("{} holds no certificate yet", args.dir.display()))
            .hint("give a --token, which `playhouse token create` prints on the head"));
    };
    // Not parsed by clap, which repeats what it cannot read: that may be most of a secret.
    let token: JoinToken =
        token.parse().map_err(|why| CliError::usage(format!("--token: {why}")))?;
    let to = PeerId::new(Role::Head, HEAD).map_err(|why| CliError::usage(why.to_string()))?;
    // Before the token is used up: whoever joins can keep what it gets.
    let folder = fs::create_dir_all(&args.dir);
    let file_ready = folder.and_then(|()| authority::create(&file));
    let mut kept = file_ready.map_err(|why| failed(why.to_string()))?;
    let joined = join(head, &token, &to, &args.name, LinkConfig::default()).await;
    let written = match joined {
        Err(why) => Err(CliError::failure(format!("cannot join: {why}"))),
        Ok(identity) => identity
            .to_bytes()
            .map_err(|why| failed(why.to_string()))
            .and_then(|bytes| kept.write_all(&bytes).map_err(|why| failed(why.to_string())))
            .map(|()| identity),
    };
    // Nothing is better than half of it.
    written.inspect_err(|_| drop(fs::remove_file(&file)))
}

// === impl DeviceList ===

impl DeviceList {
    /// Equal shares of this machine.
    fn devices(self) -> Result<Vec<Device>, CliError> {
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let count = self.0.get() as usize;
        if count > cores {
            return Err(CliError::usage(format!(
                "--devices cpu:{count}: this machine has {cores} cores, and each device needs one"
            )));
        }
        let threads = u32::try_from(cores / count).unwrap_or(u32::MAX);
        let memory_bytes = available_memory().0 / count as u64;
        Ok(vec![Device { memory_bytes, threads }; count])
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
