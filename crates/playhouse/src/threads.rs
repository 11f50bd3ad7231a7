//! Ranks that are engine threads of this process.

use std::num::NonZeroUsize;
use std::sync::Arc;

use playhouse_cluster::{
    Layout, Rank, RankEvent, RankPort, RankSink, RankStarter, StartedRank, Whereabouts,
};
use playhouse_collectives::{Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent};
use playhouse_model::{Checkpoint, ModelConfig, Weights};
use playhouse_ops::Threads;
use playhouse_scheduler::Limits;
use tokio::task::spawn_blocking;

use crate::error::CliError;
use crate::layout::ServedLayout;
use crate::progress::{Progress, Unit};
use crate::ranks::{GroupAborts, GroupSeat, RankModel};

/// Reads the weights of all ranks, which replicas share. Each rank gets `threads`.
///
/// # Errors
/// What is wrong with the weights.
pub(crate) fn threads(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    served: &ServedLayout,
    limits: &Limits,
    threads: NonZeroUsize,
) -> Result<RankStarter, CliError> {
    let load = |shard| {
        let mut progress = None;
        Weights::load(checkpoint, &config.spec, shard, served.dtype, |done, total| {
            let start = || Progress::start("loading weights", total as u64, Unit::Bytes);
            progress.get_or_insert_with(start).set(done as u64);
        })
    };
    let weights = served.shards.iter().map(load).collect::<Result<Vec<_>, _>>();
    let weights = weights.map_err(|why| CliError::failure(why.to_string()))?;
    let replica: Vec<_> = weights
        .into_iter()
        .map(|weights| RankModel {
            spec: config.spec.clone(),
            weights,
            threads: Threads::new(threads),
        })
        .collect();
    let mut ranks = Vec::new();
    for _ in 0..served.replicas.get() {
        ranks.extend(replica.iter().cloned());
    }
    // A pool of threads serves one rank.
    for rank in ranks.iter_mut().skip(replica.len()) {
        rank.threads = Threads::new(threads);
    }
    let (layout, kv_blocks) = (served.layout, limits.kv_blocks as usize);
    let max_num_seqs = limits.max_num_seqs;
    Ok(Arc::new(move |epoch, rank, sink| {
        let config = EngineConfig { epoch, kv_blocks, max_num_seqs };
        let index = rank.replica.0 as usize * layout.ranks() + rank.stage * layout.tensor;
        start(&ranks[index + rank.tensor], layout, rank, config, sink)
    }))
}

fn start(
    model: &RankModel,
    layout: Layout,
    rank: Rank,
    config: EngineConfig,
    sink: RankSink,
) -> std::io::Result<StartedRank> {
    let Rank { replica, stage, tensor } = rank;
    let pid = std::process::id();
    let seat = |name: String, size: usize, rank: usize| GroupSeat {
        name: format!("playhouse-{pid}-{replica}-{name}"),
        // Of use between machines alone.
        secret: Secret([0; 32]),
        members: vec![Member { machine: "this process".to_owned(), address: None }; size],
        rank,
        listener: None,
    };
    let groups = [
        seat(format!("s{stage}"), layout.tensor, tensor),
        seat(format!("t{tensor}"), layout.stages, stage),
    ];
    let device =
        format!("cpu:{}", (replica.0 as usize * layout.stages + stage) * layout.tensor + tensor);
    sink(RankEvent::Seated(Whereabouts { node: "head".to_owned(), device, pid }));
    let on_event = move |event: EngineEvent| sink(event.into());
    let (port, thread) = model.start(config, groups, GroupAborts::default(), on_event)?;
    let ended = async move { drop(spawn_blocking(move || thread.join()).await) };
    Ok(StartedRank { port: RankPort::Engine(port), ended: Box::pin(ended) })
}
