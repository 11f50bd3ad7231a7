//! Where ranks run: as threads of this process, or as processes of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::ValueEnum;
use playhouse_cluster::{
    Child, ControlConfig, ControlPlane, Device, ExpectedWeights, Listener, MemoryNeeds,
    RemoteConfig, processes,
};
use playhouse_link::{Authority, TellRenewal};
use playhouse_model::{Dtype, Shard};
use playhouse_ops::Isa;
use playhouse_rank::{ReplicaModel, StarterMaker, ThreadRanks};
use playhouse_scheduler::Limits;
use playhouse_wire::Load;

use crate::authority::Trust;
use crate::error::CliError;
use crate::layout::ServedLayout;
use crate::loading::Loaded;
use crate::progress::{Progress, Unit};
use crate::sizing::{CacheSize, available_memory};

/// What keeps ranks apart.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// Nothing: each rank is a thread of this process
    Thread,
    /// Each rank is a process of its own: the death of one leaves the others
    Process,
}

/// Where ranks are to run.
pub(crate) enum Place {
    /// In this process.
    Here(Devices),
    /// In processes of this machine.
    Children(Devices),
    /// On the nodes that join at this address and have a certificate of this authority, and on the
    /// devices of this machine, if it has some.
    Nodes(SocketAddr, Box<Trust>, Option<Devices>),
}

/// Devices of this machine, for one rank each.
#[derive(Clone, Copy)]
pub(crate) struct Devices {
    pub(crate) count: usize,
    pub(crate) threads_each: NonZeroUsize,
}

/// Where the ranks of a deployment run.
#[derive(Clone)]
pub(crate) struct Venue {
    kind: Kind,
    /// Devices for ranks that are threads.
    pub(crate) devices: usize,
    /// The same, for people.
    pub(crate) text: String,
}

#[derive(Clone)]
enum Kind {
    Threads(Arc<ThreadRanks>),
    Processes(Box<Processes>),
}

/// What ranks that are processes have in common.
#[derive(Clone)]
struct Processes {
    control: ControlPlane,
    /// Memory of each device, if all of them are on this machine.
    memory: Option<u64>,
    weights: ExpectedWeights,
}

// === impl Venue ===

impl Venue {
    /// Prepares ranks. Must be called on the runtime that is to drive processes. `tell_renewal` is told
    /// of the certificates that they and nodes renew.
    ///
    /// # Errors
    /// Why no process can be driven.
    pub(crate) fn new(
        place: Place,
        loaded: &Loaded,
        tell_renewal: TellRenewal,
    ) -> Result<Self, CliError> {
        let text = place.text();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (kind, devices) = match place {
            Place::Here(devices) => {
                (Kind::Threads(Arc::new(ThreadRanks::new(devices.threads_each))), devices.count)
            }
            Place::Children(devices) => {
                let authority = Authority::new().map_err(failed)?;
                let (trust, devices) = (Trust::passing(authority), devices.list());
                let memory = devices.first().map(|device| device.memory_bytes);
                let control = control(loopback, trust, devices, false, tell_renewal)?;
                let weights = expected(loaded)?;
                (Kind::Processes(Box::new(Processes { control, memory, weights })), 0)
            }
            Place::Nodes(address, trust, devices) => {
                let devices = devices.map(Devices::list).unwrap_or_default();
                let control = control(address, *trust, devices, true, tell_renewal)?;
                let (memory, weights) = (None, expected(loaded)?);
                (Kind::Processes(Box::new(Processes { control, memory, weights })), 0)
            }
        };
        Ok(Self { kind, devices, text })
    }

    /// The control plane, unless ranks are threads.
    pub(crate) fn control(&self) -> Option<&ControlPlane> {
        match &self.kind {
            Kind::Threads(_) => None,
            Kind::Processes(processes) => Some(&processes.control),
        }
    }

    /// What starts the ranks of replicas of a layout.
    ///
    /// # Errors
    /// What is wrong with the weights, if they are read here; or that ranks do not fit on the devices
    /// there are, if no others can come.
    pub(crate) fn starters(
        &self,
        loaded: &Loaded,
        served: &ServedLayout,
        limits: &Limits,
        cache: CacheSize,
    ) -> Result<StarterMaker, CliError> {
        match &self.kind {
            Kind::Threads(ranks) => {
                let model = ReplicaModel {
                    checkpoint: loaded.checkpoint.clone(),
                    spec: loaded.shape.spec.clone(),
                    dtype: served.dtype,
                    map: Arc::clone(&served.map),
                    shards: served.shards.clone(),
                };
                ranks.starters(&model, limits, shown()).map_err(failed)
            }
            Kind::Processes(common) => {
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
    /// On this machine: `devices`, or as many as `world` ranks need, share its cores or
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
    /// So many devices, which share the cores of this machine or `all_threads`.
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
    trust: Trust,
    devices: Vec<Device>,
    admits_nodes: bool,
    tell_renewal: TellRenewal,
) -> Result<ControlPlane, CliError> {
    let program = std::env::current_exe()
        .map_err(|why| CliError::failure(format!("cannot find this program's own file: {why}")))?;
    let Trust { authority, revocations, keep_revocations } = trust;
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

/// What every rank has to load, as it is now.
fn expected(loaded: &Loaded) -> Result<ExpectedWeights, CliError> {
    let folder = loaded.folder.as_ref().map(|folder| folder.display().to_string());
    let digest = loaded.checkpoint.digest(&loaded.shape).map_err(failed)?;
    Ok(ExpectedWeights { folder, digest })
}

/// What the processes of the ranks are told.
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

/// Shows how far the weights of each rank have been read.
fn shown() -> impl FnMut(usize, usize) {
    let mut progress = None;
    move |done, total| {
        if done == 0 {
            progress = None;
        }
        let start = || Progress::start("loading weights", total as u64, Unit::Bytes);
        progress.get_or_insert_with(start).set(done as u64);
    }
}

fn failed(why: impl std::fmt::Display) -> CliError {
    CliError::failure(why.to_string())
}
