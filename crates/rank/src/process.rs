//! A rank that runs as a process of its own.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use playhouse_cluster::{Loading, RankEngine, RankHost, ReadProgress};
use playhouse_collectives::{AbortHandle, Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent};
use playhouse_layout::GroupKind;
use playhouse_model::{Checkpoint, Dtype, Shard, Weights, checkpoint_digest, checkpoint_shape};
use playhouse_ops::Threads;
use playhouse_types::{BlockSize, CheckpointDigest};
use playhouse_wire::{Group, Join, Load, Loaded};
use tokio::task::spawn_blocking;

use crate::group_place::GroupPlace;
use crate::model::RankModel;

/// The files of a checkpoint that is compiled into the binary: names and contents.
type Embedded = &'static [(&'static str, &'static [u8])];

/// The host of a rank in its own process: the rank's part of a model, and the listeners of its groups.
pub struct ProcessHost {
    head: SocketAddr,
    machine: String,
    embedded: Embedded,
    /// The number of loads that were asked for. A load that is no longer the last of them changes nothing: its
    /// epoch is over, and it may have waited for the lock while a later load had it.
    loads: AtomicU64,
    held: Mutex<HeldRank>,
}

#[derive(Default)]
struct HeldRank {
    loaded: Option<(Load, Files, RankModel, CheckpointDigest)>,
    /// Listeners for the groups of the next epoch.
    listeners: Option<Vec<(GroupKind, TcpListener)>>,
}

/// The files of a checkpoint: their names, sizes and modification times. A process may keep the weights that
/// it read for as long as these stay the same.
type Files = Vec<(OsString, u64, SystemTime)>;

// === impl ProcessHost ===

impl RankHost for ProcessHost {
    fn load(self: Arc<Self>, load: Load, progress: ReadProgress) -> Loading {
        let number = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            let loaded = spawn_blocking(move || self.hold(number, &load, &progress)).await;
            loaded.unwrap_or_else(|panic| Err(format!("reading weights: {panic}")))
        })
    }

    fn start(&self, join: Join, sink: Box<dyn Fn(EngineEvent) + Send>) -> io::Result<RankEngine> {
        let Join { epoch, groups, kv_blocks, block_tokens, max_num_seqs } = join;
        let mut held = self.held.lock();
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
        let place = |(kind, group): (GroupKind, Group)| {
            let at = listeners.iter().position(|(other, _)| *other == kind).ok_or_else(|| {
                io::Error::other(format!("it does not listen for its {} group", kind.label()))
            })?;
            Ok((kind, group_place(group, listeners.swap_remove(at).1)?))
        };
        let groups = groups.into_iter().map(place).collect::<io::Result<_>>()?;
        let abort = AbortHandle::new();
        let (port, thread) = model.start(config, groups, abort.clone(), sink)?;
        Ok(RankEngine::of_thread(port, thread, move || abort.abort()))
    }
}

impl ProcessHost {
    /// Returns the host of a rank that holds nothing yet. The head is at `head`; ranks with the same
    /// `machine` share memory; `embedded` is the model that needs no folder.
    #[must_use]
    pub fn new(head: SocketAddr, machine: String, embedded: Embedded) -> Self {
        Self { head, machine, embedded, loads: AtomicU64::new(0), held: Mutex::default() }
    }

    /// Reads the weights that the rank does not hold yet, and listens for other ranks, unless the load with this
    /// `number` is no longer the last.
    fn hold(
        &self,
        number: u64,
        load: &Load,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Loaded, String> {
        let mut held = self.held.lock();
        if number != self.loads.load(Ordering::Relaxed) {
            return Err("a later load has taken the place of this one".to_owned());
        }
        let files = files(load);
        let same = |kept: &(Load, Files, _, _)| kept.0 == *load && kept.1 == files;
        let kept = held.loaded.take().filter(same);
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let (model, digest) = read(load, self.embedded, progress)?;
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

impl fmt::Debug for ProcessHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessHost").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Lists the files of a checkpoint; empty if they cannot be listed, because reading them will then say why.
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

fn read(
    load: &Load,
    embedded: Embedded,
    progress: &dyn Fn(u64, u64),
) -> Result<(RankModel, CheckpointDigest), String> {
    let checkpoint = match &load.model {
        Some(folder) => Checkpoint::open(Path::new(folder)).map_err(|why| why.to_string())?,
        None => Checkpoint::embedded(embedded),
    };
    let shape = checkpoint_shape(&checkpoint).map_err(|why| why.to_string())?;
    let digest = checkpoint_digest(&checkpoint, &shape).map_err(|why| why.to_string())?;
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
    Weights::check_digest(&checkpoint, &digest.weights).map_err(|why| why.to_string())?;
    let threads = NonZeroUsize::new(load.threads as usize).unwrap_or(NonZeroUsize::MIN);
    Ok((RankModel { spec, weights, threads: Threads::new(threads) }, digest))
}

fn group_place(group: Group, listener: TcpListener) -> io::Result<GroupPlace> {
    let Group { name, secret, rank, members } = group;
    let member = |member: playhouse_wire::Member| {
        let address = member.address.parse().map_err(io::Error::other)?;
        Ok(Member { machine: member.machine, address: Some(address) })
    };
    let members = members.into_iter().map(member).collect::<io::Result<_>>()?;
    let (secret, listener) = (Secret(secret), Some(listener));
    Ok(GroupPlace { name, secret, members, rank: rank as usize, listener })
}

#[cfg(test)]
mod tests;
