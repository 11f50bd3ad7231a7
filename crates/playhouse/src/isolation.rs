//! The places where ranks run: threads of this process, or separate processes.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::ValueEnum;
use playhouse_cluster::{
    Child, ControlConfig, ControlPlane, Device, ExpectedWeights, Listener, MemoryNeeds,
    RemoteConfig, Share, WeightsProgress, WeightsRead, processes,
};
use playhouse_link::{Authority, TellRenewal};
use playhouse_model::{Dtype, Shard, checkpoint_digest};
use playhouse_ops::Isa;
use playhouse_rank::{ReplicaModel, StarterMaker, ThreadRanks};
use playhouse_scheduler::Limits;
use playhouse_wire::Load;

use crate::authority::ClusterTrust;
use crate::error::CliError;
use crate::layout::ServedLayout;
use crate::loading::Loaded;
use crate::progress::{Progress, Unit};
use crate::sizing::{CacheSize, available_memory};

/// The isolation of ranks from each other.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// Nothing: each rank is a thread of this process
    Thread,
    /// Each rank is a separate process: the death of one leaves the others
    Process,
}

/// The place where ranks are to run.
pub(crate) enum Place {
    /// Threads of this process.
    Here(Devices),
    /// Processes of this machine.
    Children(Devices),
    /// The nodes that join at this address and have a certificate of this authority, and the devices of
    /// this machine, if it has some.
    Nodes(SocketAddr, Box<ClusterTrust>, Option<Devices>),
}

/// Devices of this machine, each for one rank.
#[derive(Clone, Copy)]
pub(crate) struct Devices {
    pub(crate) count: usize,
    pub(crate) threads_each: NonZeroUsize,
}

/// The place where the ranks of a deployment run, prepared to start them.
#[derive(Clone)]
pub(crate) struct Venue {
    kind: VenueKind,
    /// The number of devices for ranks that are threads.
    pub(crate) devices: usize,
    /// The same, as text.
    pub(crate) text: String,
    /// The progress of the weights of ranks that are threads.
    pub(crate) weights: WeightsProgress,
}

#[derive(Clone)]
enum VenueKind {
    Threads(Arc<ThreadRanks>),
    Processes(Box<Processes>),
}

/// The data that all ranks in processes share.
#[derive(Clone)]
struct Processes {
    control: ControlPlane,
    /// The memory of each device, if all of them are on this machine.
    memory: Option<u64>,
    weights: ExpectedWeights,
}

// === impl Venue ===

impl Venue {
    /// Prepares the place of ranks. Must be called on the runtime that will drive processes.
    /// `tell_renewal` is called for the certificates that ranks and nodes renew.
    ///
    /// # Errors
    /// Returns an error if no process can be driven.
    pub(crate) fn new(
        place: Place,
        loaded: &Loaded,
        tell_renewal: TellRenewal,
    ) -> Result<Self, CliError> {
        let text = place.text();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (kind, devices) = match place {
            Place::Here(devices) => (
                VenueKind::Threads(Arc::new(ThreadRanks::new(devices.threads_each))),
                devices.count,
            ),
            Place::Children(devices) => {
                let authority = Authority::new().map_err(failed)?;
                let (trust, devices) = (ClusterTrust::passing(authority), devices.list());
                let memory = devices.first().map(|device| device.memory_bytes);
                let control = control(loopback, trust, devices, false, tell_renewal)?;
                let weights = expected(loaded)?;
                (VenueKind::Processes(Box::new(Processes { control, memory, weights })), 0)
            }
            Place::Nodes(address, trust, devices) => {
                let devices = devices.map(Devices::list).unwrap_or_default();
                let control = control(address, *trust, devices, true, tell_renewal)?;
                let (memory, weights) = (None, expected(loaded)?);
                (VenueKind::Processes(Box::new(Processes { control, memory, weights })), 0)
            }
        };
        Ok(Self { kind, devices, text, weights: WeightsProgress::default() })
    }

    /// Returns the control plane, unless ranks are threads.
    pub(crate) fn control(&self) -> Option<&ControlPlane> {
        match &self.kind {
            VenueKind::Threads(_) => None,
            VenueKind::Processes(processes) => Some(&processes.control),
        }
    }

    /// Returns the starters of the ranks of replicas of a layout.
    ///
    /// # Errors
    /// Returns an error if the weights are invalid and are read here, or if the ranks do not fit on the
    /// devices and no others can come.
    pub(crate) fn starters(
        &self,
        loaded: &Loaded,
        served: &ServedLayout,
        limits: &Limits,
        cache: CacheSize,
    ) -> Result<StarterMaker, CliError> {
        match &self.kind {
            VenueKind::Threads(ranks) => {
                let model = ReplicaModel {
                    checkpoint: loaded.checkpoint.clone(),
                    spec: loaded.shape.spec.clone(),
                    dtype: served.dtype,
                    map: Arc::clone(&served.map),
                    shards: served.shards.clone(),
                };
                let shown = shown(self.weights.clone(), &served.shares);
                ranks.starters(&model, limits, shown).map_err(failed)
            }
            VenueKind::Processes(common) => {
                let Processes { control, memory, weights } = (**common).clone();
                let config = remote(loaded, served, limits, cache, weights);
                if let Some(why) = memory.and_then(|memory| config.memory.misfit(memory)) {
                    return Err(CliError::usage(why));
                }
                Ok(Arc::new(move || processes(config.clone(), control.clone())))
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// Returns a place on this machine: `devices`, or as many as `world` ranks need, share its cores or
    /// `all_threads`.
    pub(crate) fn local(
        isolation: Option<Isolation>,
        world: usize,
        devices: Option<usize>,
        all_threads: Option<NonZeroUsize>,
    ) -> Self {
        let devices = Devices::new(devices.unwrap_or(world), all_threads);
        let by_default = if devices.count == 1 { Isolation::Thread } else { Isolation::Process };
        match isolation.unwrap_or(by_default) {
            Isolation::Thread => Self::Here(devices),
            Isolation::Process => Self::Children(devices),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Here(devices) => format!("cpu, {}, {}", devices.text(), Isa::detect()),
            Self::Children(devices) => {
                format!("cpu, a process with {}, {}", devices.text(), Isa::detect())
            }
            Self::Nodes(address, _, None) => format!("those of the nodes that join at {address}"),
            Self::Nodes(address, _, Some(devices)) => {
                format!("{} here, and those of nodes that join at {address}", devices.count)
            }
        }
    }
}

// === impl Devices ===

impl Devices {
    /// Returns this number of devices, which share the cores of this machine or `all_threads`.
    pub(crate) fn new(count: usize, all_threads: Option<NonZeroUsize>) -> Self {
        let all = all_threads.or_else(|| available_parallelism().ok());
        let each = all.and_then(|all| NonZeroUsize::new(all.get() / count));
        Self { count, threads_each: each.unwrap_or(NonZeroUsize::MIN) }
    }

    fn list(self) -> Vec<Device> {
        let device = Device {
            memory_bytes: available_memory().0 / self.count as u64,
            threads: u32::try_from(self.threads_each.get()).unwrap_or(u32::MAX),
        };
        vec![device; self.count]
    }

    fn text(self) -> String {
        let plural = if self.threads_each.get() == 1 { "" } else { "s" };
        format!("{} thread{plural} per shard", self.threads_each)
    }
}

fn control(
    address: SocketAddr,
    trust: ClusterTrust,
    devices: Vec<Device>,
    admits_nodes: bool,
    tell_renewal: TellRenewal,
) -> Result<ControlPlane, CliError> {
    let program = std::env::current_exe()
        .map_err(|why| CliError::failure(format!("cannot find this program's own file: {why}")))?;
    let ClusterTrust { authority, revocations, keep_revocations } = trust;
    let listener = Listener::bind(address, &authority).map_err(failed)?;
    let children = Child::starter(program);
    let config = ControlConfig {
        listener,
        authority,
        children,
        devices,
        admits_nodes,
        revocations,
        keep_revocations,
        tell_renewal,
    };
    Ok(ControlPlane::start(config))
}

/// Returns the digest that every rank's weights must have, as the checkpoint is now.
fn expected(loaded: &Loaded) -> Result<ExpectedWeights, CliError> {
    let folder = loaded.folder.as_ref().map(|folder| folder.display().to_string());
    let digest = checkpoint_digest(&loaded.checkpoint, &loaded.shape).map_err(failed)?;
    Ok(ExpectedWeights { folder, digest })
}

/// Returns the settings of the ranks' processes.
fn remote(
    loaded: &Loaded,
    served: &ServedLayout,
    limits: &Limits,
    cache: CacheSize,
    weights: ExpectedWeights,
) -> RemoteConfig {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let load = |shard: &Shard| Load {
        model: loaded.folder.as_ref().map(|folder| folder.display().to_string()),
        dtype: match served.dtype {
            Dtype::Auto => playhouse_wire::Dtype::Auto,
            Dtype::Bf16 => playhouse_wire::Dtype::Bf16,
            Dtype::F16 => playhouse_wire::Dtype::F16,
            Dtype::F32 => playhouse_wire::Dtype::F32,
        },
        share: *shard.share(),
        groups: served.map.group_kinds(),
        threads: 1,
    };
    RemoteConfig {
        map: Arc::clone(&served.map),
        loads: served.shards.iter().map(load).collect(),
        memory: MemoryNeeds {
            ranks: served.rank_bytes.clone(),
            kv_blocks_min: cache.least,
            kv_blocks_max: cache.most,
            kv_share: cache.share,
        },
        weights,
        max_num_seqs: number(limits.max_num_seqs),
        block_size: limits.block_size,
    }
}

/// Returns a function that shows the progress of reading the weights of each rank, one after the other,
/// and records it in `weights`.
fn shown(weights: WeightsProgress, shares: &[Share]) -> impl FnMut(usize, usize) + use<> {
    let held: Vec<u64> = shares.iter().map(|share| share.weight_bytes).collect();
    let (mut progress, mut begun) = (None, 0_usize);
    move |done, total| {
        if done == 0 {
            (progress, begun) = (None, begun + 1);
        }
        let before = &held[..begun.saturating_sub(1).min(held.len())];
        let own = held.get(before.len()).copied().unwrap_or_default();
        // A rank may hold less than it reads.
        let own = (own as f64 * done as f64 / total.max(1) as f64) as u64;
        let (read, total_held) = (before.iter().sum::<u64>() + own, held.iter().sum());
        weights.set(WeightsRead { read, total: total_held, begun, ranks: held.len() });
        let start = || Progress::start("loading weights", total as u64, Unit::Bytes);
        progress.get_or_insert_with(start).set(done as u64);
    }
}

fn failed(why: impl std::fmt::Display) -> CliError {
    CliError::failure(why.to_string())
}
