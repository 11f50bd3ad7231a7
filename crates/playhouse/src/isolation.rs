//! Where ranks run: as threads of this process, or as processes of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use clap::ValueEnum;
use playhouse_cluster::{
    ControlConfig, ControlPlane, Device, RankStarter, RemoteConfig, processes,
};
use playhouse_link::Authority;
use playhouse_model::{Dtype, Shard};
use playhouse_ops::Isa;
use playhouse_scheduler::Limits;
use playhouse_wire::Load;

use crate::error::CliError;
use crate::layout::ServedLayout;
use crate::loading::Loaded;
use crate::sizing::available_memory;
use crate::threads::threads;

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
    /// In this process, with so many threads each.
    Here(NonZeroUsize),
    /// In processes of this machine, with so many threads each.
    Children(NonZeroUsize),
    /// On the nodes that join at this address and have a certificate of this authority.
    Nodes(SocketAddr, Box<Authority>),
}

/// Where the ranks of a deployment run.
pub(crate) struct Venue {
    pub(crate) starter: RankStarter,
    /// None if all of them are threads.
    pub(crate) control: Option<ControlPlane>,
    /// The same, for people.
    pub(crate) text: String,
}

// === impl Venue ===

impl Venue {
    /// Prepares ranks. Must be called on the runtime that is to drive processes.
    ///
    /// # Errors
    /// What is wrong with the weights, if they are read here; or why no process can be driven.
    pub(crate) fn new(
        place: Place,
        loaded: &Loaded,
        served: &ServedLayout,
        limits: &Limits,
    ) -> Result<Self, CliError> {
        let text = place.text();
        let control = match place {
            Place::Here(threads_each) => {
                let Loaded { checkpoint, config, .. } = loaded;
                let starter = threads(checkpoint, config, served, limits, threads_each)?;
                return Ok(Self { starter, control: None, text });
            }
            Place::Children(threads_each) => {
                let device = Device {
                    memory_bytes: available_memory().0 / served.world() as u64,
                    threads: u32::try_from(threads_each.get()).unwrap_or(u32::MAX),
                };
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let authority = Authority::new().map_err(failed)?;
                control(address, authority, vec![device; served.world()])?
            }
            Place::Nodes(address, authority) => control(address, *authority, Vec::new())?,
        };
        let starter = processes(remote(loaded, served, limits), control.clone());
        Ok(Self { starter, control: Some(control), text })
    }
}

// === impl Place ===

impl Place {
    /// On this machine, where `world` ranks share its cores or `all_threads`.
    pub(crate) fn local(
        isolation: Option<Isolation>,
        world: usize,
        all_threads: Option<NonZeroUsize>,
    ) -> Self {
        let by_default = if world == 1 { Isolation::Thread } else { Isolation::Process };
        let all = all_threads.or_else(|| available_parallelism().ok());
        let each = all.and_then(|all| NonZeroUsize::new(all.get() / world));
        let each = each.unwrap_or(NonZeroUsize::MIN);
        match isolation.unwrap_or(by_default) {
            Isolation::Thread => Self::Here(each),
            Isolation::Process => Self::Children(each),
        }
    }

    fn text(&self) -> String {
        let each = |each: &NonZeroUsize| {
            format!("{each} thread{} per shard", if each.get() == 1 { "" } else { "s" })
        };
        match self {
            Self::Here(threads) => format!("cpu, {}, {}", each(threads), Isa::detect()),
            Self::Children(threads) => {
                format!("cpu, a process with {}, {}", each(threads), Isa::detect())
            }
            Self::Nodes(address, _) => format!("those of the nodes that join at {address}"),
        }
    }
}

fn control(
    address: SocketAddr,
    authority: Authority,
    devices: Vec<Device>,
) -> Result<ControlPlane, CliError> {
    let program = std::env::current_exe()
        .map_err(|why| CliError::failure(format!("cannot find this program's own file: {why}")))?;
    ControlPlane::start(ControlConfig { address, authority, program, devices }).map_err(failed)
}

/// What the processes of the ranks are told.
fn remote(loaded: &Loaded, served: &ServedLayout, limits: &Limits) -> RemoteConfig {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let load = |shard: &Shard| Load {
        model: loaded.folder.as_ref().map(|folder| folder.display().to_string()),
        dtype: match served.dtype {
            Dtype::Auto => playhouse_wire::Dtype::Auto,
            Dtype::Bf16 => playhouse_wire::Dtype::Bf16,
            Dtype::F16 => playhouse_wire::Dtype::F16,
            Dtype::F32 => playhouse_wire::Dtype::F32,
        },
        first_layer: number(shard.layers().start),
        end_layer: number(shard.layers().end),
        tensor: playhouse_wire::Place {
            at: number(shard.tensor_rank()),
            of: number(shard.tensor_size()),
        },
        threads: 1,
    };
    RemoteConfig {
        layout: served.layout,
        map: served.map.clone(),
        loads: served.shards.iter().map(load).collect(),
        kv_blocks: limits.kv_blocks,
        max_num_seqs: number(limits.max_num_seqs),
    }
}

fn failed(why: impl std::fmt::Display) -> CliError {
    CliError::failure(why.to_string())
}
