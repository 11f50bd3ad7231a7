//! The ranks of a replica, each an engine thread of this process.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use playhouse_cluster::{EngineFactory, EngineSink, Layout, Rank};
use playhouse_collectives::{Communicator, GroupSpec, Member, Secret};
use playhouse_engine::{EngineConfig, StepPort};
use playhouse_model::{Checkpoint, Groups, KvCache, Model, Shard, Weights};
use playhouse_ops::{Isa, Threads};
use playhouse_planner::{ModelShape, RankMap};
use playhouse_scheduler::Limits;
use playhouse_types::{DecoderSpec, Epoch, ParallelSpec};

use crate::error::CliError;

/// The longest that a rank waits for the others. A step takes far less; a rank that ends wakes the
/// others at once.
const GROUP_TIMEOUT: Duration = Duration::from_secs(60);

/// What every rank computes with.
pub(crate) struct Ranks {
    layout: Layout,
    /// Stage by stage.
    ranks: Vec<RankParts>,
}

#[derive(Clone)]
struct RankParts {
    weights: Weights,
    threads: Threads,
}

/// The part of the model that each rank holds, stage by stage.
///
/// # Errors
/// Every rule that the layout breaks, or the part of it that this version does not serve.
pub(crate) fn shards(
    checkpoint: &Checkpoint,
    parallel: &ParallelSpec,
    spec: &DecoderSpec,
) -> Result<Vec<Shard>, CliError> {
    let served = ParallelSpec {
        tensor: parallel.tensor,
        pipeline: parallel.pipeline,
        pipeline_partition: parallel.pipeline_partition.clone(),
        ..ParallelSpec::default()
    };
    if *parallel != served {
        return Err(CliError::usage("this version serves tensor and pipeline parallel layouts")
            .hint("`playhouse plan` with the same flags shows where every rank would be"));
    }
    let failure = |why: String| CliError::failure(why);
    let config = checkpoint.require("config.json").map_err(|why| failure(why.to_string()))?;
    let shape = ModelShape::parse(&config).map_err(|why| failure(format!("config.json: {why}")))?;
    let map = RankMap::new(parallel, &shape).map_err(|broken| {
        let lines: Vec<_> = broken.iter().map(ToString::to_string).collect();
        CliError::usage(format!("the layout cannot run: {}", lines.join("\nerror: ")))
    })?;
    map.ranks()
        .map(|at| {
            let held = map.share(&shape, &at).layers;
            let first = usize::try_from(held.first).unwrap_or(usize::MAX);
            let count = usize::try_from(held.count).unwrap_or(usize::MAX);
            let layers = first..first.saturating_add(count);
            let (rank, size) = (at.stage_rank as usize, parallel.tensor as usize);
            Shard::new(spec, layers, rank, size).map_err(|why| CliError::usage(why.to_string()))
        })
        .collect()
}

// === impl Ranks ===

impl Ranks {
    /// Ranks of these weights that share `threads`, each with one at least.
    pub(crate) fn new(
        parallel: &ParallelSpec,
        weights: Vec<Weights>,
        threads: NonZeroUsize,
    ) -> Self {
        let layout =
            Layout { stages: parallel.pipeline as usize, tensor: parallel.tensor as usize };
        let each = NonZeroUsize::new(threads.get() / weights.len().max(1));
        let each = each.unwrap_or(NonZeroUsize::MIN);
        let ranks = weights
            .into_iter()
            .map(|weights| RankParts { weights, threads: Threads::new(each) })
            .collect();
        Self { layout, ranks }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Element type of weights, activations and cache, as candle spells it.
    pub(crate) fn dtype(&self) -> &'static str {
        self.ranks[0].weights.dtype().as_str()
    }

    /// Threads of one rank.
    pub(crate) fn threads(&self) -> usize {
        self.ranks[0].threads.count()
    }

    pub(crate) fn isa(&self) -> Isa {
        self.ranks[0].threads.isa()
    }

    /// Bytes of one KV block, on all ranks together.
    pub(crate) fn bytes_per_block(&self, spec: &DecoderSpec) -> u64 {
        let bytes = |rank: &RankParts| {
            let shard = rank.weights.shard().spec(spec);
            KvCache::bytes_per_block(&shard, rank.weights.dtype()) as u64
        };
        self.ranks.iter().map(bytes).sum()
    }

    /// Starts engines of these ranks.
    pub(crate) fn engines(self, spec: DecoderSpec, limits: &Limits) -> EngineFactory {
        let (kv_blocks, max_num_seqs) = (limits.kv_blocks as usize, limits.max_num_seqs);
        Arc::new(move |epoch, rank: Rank, sink| {
            let config = EngineConfig { epoch, kv_blocks, max_num_seqs };
            self.start(&spec, rank, config, sink)
        })
    }

    fn start(
        &self,
        spec: &DecoderSpec,
        rank: Rank,
        config: EngineConfig,
        sink: EngineSink,
    ) -> io::Result<(StepPort, JoinHandle<()>)> {
        let Layout { stages, tensor } = self.layout;
        let RankParts { weights, threads } = self.ranks[rank.stage * tensor + rank.tensor].clone();
        let spec = spec.clone();
        let Epoch(epoch) = config.epoch;
        let build = move || {
            let stage = format!("stage-{}", rank.stage);
            let chain = format!("chain-{}", rank.tensor);
            let groups = Groups {
                tensor: join(stage, epoch, tensor, rank.tensor)?,
                pipeline: join(chain, epoch, stages, rank.stage)?,
            };
            Ok(Arc::new(Model::new(&spec, weights, groups, threads)))
        };
        playhouse_engine::spawn(build, config, sink)
    }
}

/// Joins a group of threads of this process, and waits until all are there.
fn join(name: String, epoch: u64, size: usize, rank: usize) -> Result<Communicator, String> {
    if size == 1 {
        return Ok(Communicator::solo());
    }
    let member = Member { machine: "this process".to_owned(), address: None };
    let spec = GroupSpec {
        group: format!("playhouse-{}-{name}", std::process::id()),
        epoch,
        // Of use between machines alone.
        secret: Secret([0; 32]),
        members: vec![member; size],
        timeout: GROUP_TIMEOUT,
        buffer_bytes: GroupSpec::collective_buffer_bytes(size),
    };
    Communicator::join(&spec, rank).map_err(|why| format!("{name}: {why}"))
}
