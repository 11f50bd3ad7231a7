//! Where ranks run: as threads of this process, or as processes of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use clap::ValueEnum;
use playhouse_cluster::{
    ControlConfig, ControlPlane, Device, RankStarter, RemoteConfig, processes,
};
use playhouse_link::Authority;
use playhouse_model::Dtype;
use playhouse_scheduler::Limits;
use playhouse_wire::{Load, Place};

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
    /// Prepares ranks on this machine, which share its cores or `all_threads`. Must be called on
    /// the runtime that is to drive processes.
    ///
    /// # Errors
    /// What is wrong with the weights, if they are read here; or why no process can be driven.
    pub(crate) fn here(
        loaded: &Loaded,
        served: &ServedLayout,
        limits: &Limits,
        isolation: Isolation,
        all_threads: Option<NonZeroUsize>,
    ) -> Result<Self, CliError> {
        let all = all_threads.or_else(|| available_parallelism().ok());
        let each = all.and_then(|all| NonZeroUsize::new(all.get() / served.world()));
        let each = each.unwrap_or(NonZeroUsize::MIN);
        let kind = match isolation {
            Isolation::Thread => "in this process",
            Isolation::Process => "a process each",
        };
        let s = if each.get() == 1 { "" } else { "s" };
        let text = format!("shards are {kind}, {each} thread{s} each");
        let Loaded { checkpoint, config, .. } = loaded;
        match isolation {
            Isolation::Thread => {
                let starter = threads(checkpoint, config, served, limits, each)?;
                Ok(Self { starter, control: None, text })
            }
            Isolation::Process => {
                let device = Device {
                    memory_bytes: available_memory().0 / served.world() as u64,
                    threads: u32::try_from(each.get()).unwrap_or(u32::MAX),
                };
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let authority = Authority::new().map_err(failed)?;
                let devices = vec![device; served.world()];
                let control = control(address, authority, devices)?;
                let starter = processes(remote(loaded, served, limits), control.clone());
                Ok(Self { starter, control: Some(control), text })
            }
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
    let load = |shard: &playhouse_model::Shard| Load {
        model: loaded.folder.as_ref().map(|folder| folder.display().to_string()),
        dtype: match served.dtype {
            Dtype::Auto => playhouse_wire::Dtype::Auto,
            Dtype::Bf16 => playhouse_wire::Dtype::Bf16,
            Dtype::F16 => playhouse_wire::Dtype::F16,
            Dtype::F32 => playhouse_wire::Dtype::F32,
        },
        first_layer: number(shard.layers().start),
        end_layer: number(shard.layers().end),
        tensor: Place { at: number(shard.tensor_rank()), of: number(shard.tensor_size()) },
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
