//! `playhouse shard`: the process of one rank, started by `serve` and `node`, not by people.
//!
//! The process reads its identity from standard input, whose end of file says that its parent has ended.

use std::io::{self, Read};
use std::os::linux::fs::MetadataExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::{fs, thread};

use clap::Args;
use playhouse_cluster::{HeadAddress, Way, run_rank};
use playhouse_link::Identity;
use playhouse_rank::{ProcessHost, sweep_shared_memory};
use playhouse_telemetry::init_child_logs;
use tracing::warn;

use crate::demo;
use crate::error::CliError;

/// The maximum length of an identity: three certificates or keys are far shorter.
const IDENTITY_BYTES_MAX: u32 = 1 << 20;

/// How much sooner a rank is killed than its parent when memory runs out: as if the rank had half of the
/// memory in addition to its own.
const OOM_SCORE_RAISE: i32 = 500;

/// The maximum `oom_score_adj`.
const OOM_SCORE_MAX: i32 = 1000;

/// Run one rank for a head that started this process.
#[derive(Args)]
pub(crate) struct ShardArgs {
    /// Where the head is
    #[arg(long, value_name = "HOST:PORT")]
    head: String,
}

/// Runs the rank for the head until the head is gone.
///
/// # Errors
/// Returns an error when there is no identity on standard input, or no head.
pub(crate) fn run(args: &ShardArgs) -> Result<ExitCode, CliError> {
    init_child_logs("warn").map_err(|why| CliError::failure(why.to_string()))?;
    volunteer();
    sweep_shared_memory();
    let identity = identity().map_err(|why| {
        CliError::failure(format!("standard input holds no identity: {why}"))
            .hint("`playhouse serve` and `playhouse node` start shards; people do not")
    })?;
    thread::spawn(|| {
        // The end of the input is the end of our parent.
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|why| CliError::failure(format!("cannot start the async runtime: {why}")))?;
    runtime.block_on(async {
        let head = HeadAddress::new(&args.head);
        let found = head.find().await.map_err(|why| CliError::failure(why.to_string()))?;
        let host = ProcessHost::new(found, machine(), demo::FILES);
        let way = Way::new(head, found, &identity);
        let way = way.map_err(|why| CliError::failure(why.to_string()))?;
        let served = run_rank(way, Arc::new(host)).await;
        served.map_err(|why| CliError::failure(why.to_string()))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the kernel kill this process before the head and the agent of the machine when memory runs out:
/// a rank is restarted, and a head is not. Raising the value takes no privilege.
pub(crate) fn volunteer() {
    let own = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(own).ok().and_then(|value| value.trim().parse::<i32>().ok());
    let raised = before.map(|before| (before + OOM_SCORE_RAISE).min(OOM_SCORE_MAX));
    if let Some(why) = raised.and_then(|raised| fs::write(own, raised.to_string()).err()) {
        warn!("cannot raise {own}: {why}; when memory runs out, the head may be killed first");
    }
}

/// Reads the length of an identity, and the identity.
fn identity() -> Result<Identity, String> {
    let mut stdin = io::stdin().lock();
    let mut length = [0; 4];
    stdin.read_exact(&mut length).map_err(|why| why.to_string())?;
    let length = u32::from_le_bytes(length);
    if length > IDENTITY_BYTES_MAX {
        return Err(format!("{length} bytes are too many"));
    }
    let mut bytes = vec![0; length as usize];
    stdin.read_exact(&mut bytes).map_err(|why| why.to_string())?;
    Identity::from_bytes(&bytes).map_err(|why| why.to_string())
}

/// Returns a name of what ranks must have in common to share memory: the running kernel, the network and
/// process namespaces, and the file system behind `/dev/shm`.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let link = |name: &str| fs::read_link(name).map(|link| link.display().to_string());
    let [net, pid] =
        ["/proc/self/ns/net", "/proc/self/ns/pid"].map(|it| link(it).unwrap_or_default());
    let shm = fs::metadata("/dev/shm").map(|shm| shm.st_dev()).unwrap_or_default();
    format!("{} {net} {pid} {shm}", boot.trim())
}
