//! `playhouse shard`: the process of one rank. Started by `serve` and `node`, not by people.
//!
//! Its standard input gives it its identity and, by staying open, says that its parent lives.

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use std::{fs, thread};

use clap::Args;
use playhouse_cluster::{HeadAddress, Loading, RankEngine, RankHost, ReadProgress, Way, run_rank};
use playhouse_collectives::{AbortHandle, Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent};
use playhouse_layout::GroupKind;
use playhouse_link::Identity;
use playhouse_model::{Checkpoint, Dtype, Shard, Weights};
use playhouse_ops::Threads;
use playhouse_telemetry::init_child_logs;
use playhouse_types::{BlockSize, CheckpointDigest};
use playhouse_wire::{Group, Join, Load, Loaded};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::demo;
use crate::error::CliError;
use crate::ranks::{GroupSeat, RankModel, sweep_shared_memory};

/// An identity has three certificates or keys; nothing in it comes near to this.
const IDENTITY_BYTES_MAX: u32 = 1 << 20;

/// How much sooner a rank is killed than its parent when memory runs out: as if it had half of the memory
/// in addition to what it has.
const OOM_SCORE_RAISE: i32 = 500;

/// The highest `oom_score_adj` there is.
const OOM_SCORE_MAX: i32 = 1000;

/// Run one rank for a head that started this process.
#[derive(Args)]
pub(crate) struct ShardArgs {
    /// Where the head is
    #[arg(long, value_name = "HOST:PORT")]
    head: String,
}

/// The rank's part of a model, and where it meets others.
struct Host {
    head: SocketAddr,
    machine: String,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    loaded: Option<(Load, Files, RankModel, CheckpointDigest)>,
    /// For the next epoch's groups.
    listeners: Option<Vec<(GroupKind, TcpListener)>>,
}

/// Obeys the head until it is gone.
///
/// # Errors
/// When there is no identity on standard input, or no head.
pub(crate) fn run(args: &ShardArgs) -> Result<ExitCode, CliError> {
    init_child_logs("warn").map_err(|why| CliError::failure(why.to_string()))?;
    volunteer();
    sweep_shared_memory();
    let identity = identity().map_err(|why| {
        CliError::failure(format!("standard input holds no identity: {why}"))
            .hint("`playhouse serve` and `playhouse node` start shards; people do not")
    })?;
    thread::spawn(|| {
        // Its end is the end of our parent.
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
        let host = Host { head: found, machine: machine(), held: Mutex::default() };
        let way = Way::new(head, found, &identity);
        let way = way.map_err(|why| CliError::failure(why.to_string()))?;
        let served = run_rank(way, Arc::new(host)).await;
        served.map_err(|why| CliError::failure(why.to_string()))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Offers this process to the kernel when memory runs out, before the head and the agent of the machine:
/// a rank is started anew, and a head is not. To raise the value takes no privilege.
fn volunteer() {
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

/// Names what ranks must have in common to share memory: the running kernel, the network and
/// process namespaces, and the file system behind `/dev/shm`.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let link = |name: &str| fs::read_link(name).map(|link| link.display().to_string());
    let [net, pid] =
        ["/proc/self/ns/net", "/proc/self/ns/pid"].map(|it| link(it).unwrap_or_default());
    let shm = fs::metadata("/dev/shm").map(|shm| shm.st_dev()).unwrap_or_default();
    format!("{} {net} {pid} {shm}", boot.trim())
}

/// The files of a checkpoint: their names, sizes and times of change. A process may keep what it
/// read for longer than they stay the same.
type Files = Vec<(OsString, u64, SystemTime)>;

// === impl Host ===

impl RankHost for Host {
    fn load(self: Arc<Self>, load: Load, progress: ReadProgress) -> Loading {
        Box::pin(async move {
            let loaded = spawn_blocking(move || self.hold(&load, &progress)).await;
            loaded.unwrap_or_else(|panic| Err(format!("reading weights: {panic}")))
        })
    }

    fn start(&self, join: Join, sink: Box<dyn Fn(EngineEvent) + Send>) -> io::Result<RankEngine> {
        let Join { epoch, groups, kv_blocks, block_tokens, max_num_seqs } = join;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = held.listeners.take();
        let Some(((_, _, model, _), mut listeners)) = held.loaded.as_ref().zip(listeners) else {
            return Err(io::Error::other("nothing was loaded for this epoch"));
        };
        let config = EngineConfig {
            epoch,
            kv_blocks: kv_blocks as usize,
            block_size: BlockSize::new(block_tokens),
            max_num_seqs: max_num_seqs as usize,
        };
        let seat = |(kind, group): (GroupKind, Group)| {
            let at = listeners.iter().position(|(other, _)| *other == kind).ok_or_else(|| {
                io::Error::other(format!("it does not listen for its {} group", kind.label()))
            })?;
            Ok((kind, group_seat(group, listeners.swap_remove(at).1)?))
        };
        let groups = groups.into_iter().map(seat).collect::<io::Result<_>>()?;
        let abort = AbortHandle::new();
        let (port, thread) = model.start(config, groups, abort.clone(), sink)?;
        Ok(RankEngine::of_thread(port, thread, move || abort.abort()))
    }
}

impl Host {
    /// Reads what it does not hold yet, and listens for other ranks.
    fn hold(&self, load: &Load, progress: &dyn Fn(u64, u64)) -> Result<Loaded, String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files(load);
        let same = |kept: &(Load, Files, _, _)| kept.0 == *load && kept.1 == files;
        let kept = held.loaded.take().filter(same);
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let (model, digest) = read(load, progress)?;
                (load.clone(), files, model, digest)
            }
        };
        let (_, _, _, checkpoint) = *held.loaded.insert(kept);
        let listen = |kind: &GroupKind| Ok((*kind, self.listen()?));
        let listeners = load.groups.iter().map(listen).collect::<Result<Vec<_>, String>>()?;
        let member = |(kind, listener): &(GroupKind, TcpListener)| {
            let address = listener.local_addr().map_err(|why| why.to_string())?.to_string();
            Ok((*kind, playhouse_wire::Member { machine: self.machine.clone(), address }))
        };
        let members = listeners.iter().map(member).collect::<Result<_, String>>()?;
        let loaded = Loaded { members, checkpoint };
        held.listeners = Some(listeners);
        Ok(loaded)
    }

    /// Listens under the address by which the head's network knows this machine.
    fn listen(&self) -> Result<TcpListener, String> {
        let any = if self.head.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Connecting a datagram socket sends nothing; it asks for the route.
        let own = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(self.head)?;
            socket.local_addr()
        });
        let listening = own.and_then(|own| TcpListener::bind((own.ip(), 0)));
        listening.map_err(|why| format!("cannot listen for other ranks: {why}"))
    }
}

/// None if they cannot be listed: reading them will say why.
fn files(load: &Load) -> Files {
    let folder = load.model.as_ref().map(fs::read_dir);
    let entries = folder.into_iter().flatten().flatten().flatten();
    let file = |entry: fs::DirEntry| {
        // Of what a link points to.
        let about = fs::metadata(entry.path()).ok()?;
        Some((entry.file_name(), about.len(), about.modified().ok()?))
    };
    let mut files: Files = entries.filter_map(file).collect();
    files.sort();
    files
}

fn read(load: &Load, progress: &dyn Fn(u64, u64)) -> Result<(RankModel, CheckpointDigest), String> {
    let checkpoint = match &load.model {
        Some(folder) => Checkpoint::open(Path::new(folder)).map_err(|why| why.to_string())?,
        None => Checkpoint::embedded(demo::FILES),
    };
    let shape = checkpoint.shape().map_err(|why| why.to_string())?;
    let digest = checkpoint.digest(&shape).map_err(|why| why.to_string())?;
    let spec = shape.spec;
    let shard = Shard::new(&spec, &load.share).map_err(|why| why.to_string())?;
    let dtype = match load.dtype {
        playhouse_wire::Dtype::Auto => Dtype::Auto,
        playhouse_wire::Dtype::Bf16 => Dtype::Bf16,
        playhouse_wire::Dtype::F16 => Dtype::F16,
        playhouse_wire::Dtype::F32 => Dtype::F32,
    };
    let weights = Weights::load(&checkpoint, &spec, &shard, dtype, |done, total| {
        progress(done as u64, total as u64);
    });
    let weights = weights.map_err(|why| why.to_string())?;
    let threads = NonZeroUsize::new(load.threads as usize).unwrap_or(NonZeroUsize::MIN);
    Ok((RankModel { spec, weights, threads: Threads::new(threads) }, digest))
}

fn group_seat(group: Group, listener: TcpListener) -> io::Result<GroupSeat> {
    let Group { name, secret, rank, members } = group;
    let member = |member: playhouse_wire::Member| {
        let address = member.address.parse().map_err(io::Error::other)?;
        Ok(Member { machine: member.machine, address: Some(address) })
    };
    let members = members.into_iter().map(member).collect::<io::Result<_>>()?;
    let (secret, listener) = (Secret(secret), Some(listener));
    Ok(GroupSeat { name, secret, members, rank: rank as usize, listener })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::time::Duration;

    use playhouse_layout::{Share, Slice};
    use playhouse_wire::Dtype;

    use super::*;

    #[test]
    fn weights_are_read_again_only_if_they_changed() {
        let name = format!("playhouse-shard-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let reference =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/qwen2-tied-f32");
        fs::create_dir_all(&folder).expect("the temporary folder can be written");
        for name in ["config.json", "model.safetensors"] {
            fs::copy(Path::new(reference).join(name), folder.join(name)).expect("there is room");
        }
        let load = Load {
            model: Some(folder.display().to_string()),
            dtype: Dtype::Auto,
            share: Share { layers: Slice { first: 0, count: 1 }, ..Share::whole(2) },
            groups: Vec::new(),
            threads: 1,
        };
        let head = SocketAddr::from(([127, 0, 0, 1], 1));
        let host = Host { head, machine: String::new(), held: Mutex::default() };
        let read = |load: &Load| {
            let bytes = Cell::new(0);
            host.hold(load, &|done, _| bytes.set(done)).expect("it can be read");
            bytes.get() > 0
        };
        assert!(read(&load) && !read(&load) && !read(&load), "what is held is not read again");
        assert!(read(&Load { share: Share::whole(2), ..load.clone() }), "another part is");
        assert!(read(&load) && !read(&load));
        let weights = File::options().write(true).open(folder.join("model.safetensors"));
        let earlier = SystemTime::now() - Duration::from_secs(60);
        weights.and_then(|file| file.set_modified(earlier)).expect("the file is ours");
        assert!(read(&load) && !read(&load), "other files are");
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
