//! From a parallel layout to the share of each rank of a replica.

mod advice;

use std::num::NonZeroU32;
use std::sync::Arc;

use playhouse_cluster::{RankBytes, Share};
use playhouse_layout::{ModelShape, RankMap};
use playhouse_model::{Checkpoint, Dtype, KvCache, Shard, Weights};
use playhouse_planner::{Violation, rank_map};
use playhouse_types::{Attention, BlockSize, ParallelSpec};

use crate::error::CliError;

/// The block size of the KV caches of CPUs.
pub(crate) const BLOCK_SIZE: BlockSize = BlockSize::CPU;

/// The layout that `serve` runs.
pub(crate) struct ServedLayout {
    pub(crate) replicas: NonZeroU32,
    /// The rank map of each replica.
    pub(crate) map: Arc<RankMap>,
    /// The part that each rank holds, stage by stage.
    pub(crate) shards: Vec<Shard>,
    /// The shares of the ranks, for people.
    pub(crate) shares: Vec<Share>,
    /// The element type of weights, activations and cache.
    pub(crate) dtype: Dtype,
    /// The element type, as candle spells it.
    pub(crate) dtype_name: &'static str,
    /// The number of requests in one step of a pipeline.
    pub(crate) micro_batch_max: usize,
    /// The bytes that each rank needs.
    pub(crate) rank_bytes: Vec<RankBytes>,
    /// The bytes of one KV block, on all ranks of a replica together.
    pub(crate) bytes_per_block: u64,
}

// === impl ServedLayout ===

impl ServedLayout {
    /// Splits the model of a checkpoint.
    ///
    /// # Errors
    /// Returns every rule that the layout breaks, or the part of it that this version does not serve, or
    /// the problem of the weights.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        parallel: &ParallelSpec,
        shape: &ModelShape,
        dtype: Dtype,
    ) -> Result<Self, CliError> {
        let (map, spec) = (Arc::new(replica_map(shape, parallel)?), &shape.spec);
        let mut served = Self {
            replicas: NonZeroU32::new(parallel.data).unwrap_or(NonZeroU32::MIN),
            shards: Vec::new(),
            shares: Vec::new(),
            rank_bytes: Vec::new(),
            dtype,
            dtype_name: "",
            micro_batch_max: parallel.micro_batch_max.map_or(usize::MAX, |most| most as usize),
            bytes_per_block: 0,
            map,
        };
        let ranks = Arc::clone(&served.map);
        for at in ranks.ranks() {
            let shard = Shard::new(spec, &ranks.share(&at));
            let shard = shard.map_err(|why| CliError::usage(why.to_string()))?;
            let survey = Weights::survey(checkpoint, spec, &shard, dtype);
            let survey = survey.map_err(|why| CliError::failure(why.to_string()))?;
            let part = shard.spec(spec);
            let kv_block = KvCache::bytes_per_block(&part, BLOCK_SIZE, survey.dtype) as u64;
            let weights = survey.held_bytes as u64;
            served.rank_bytes.push(RankBytes { weights, kv_block });
            served.bytes_per_block += kv_block;
            served.dtype_name = survey.dtype.as_str();
            let (query_heads, kv_heads) = match part.layers.first().map(|layer| layer.attention) {
                Some(Attention::Gqa(gqa)) => (gqa.heads, gqa.kv_heads),
                Some(Attention::Mla(mla)) => (mla.heads, 1),
                None => (0, 0),
            };
            served.shares.push(Share {
                layers: shard.layers(),
                query_heads,
                kv_heads,
                weight_bytes: weights,
            });
            served.shards.push(shard);
        }
        Ok(served)
    }

    /// Returns the number of ranks of all replicas.
    pub(crate) fn world(&self) -> usize {
        self.replicas.get() as usize * self.map.replica_ranks()
    }
}

/// Returns the rank map of one replica.
fn replica_map(shape: &ModelShape, parallel: &ParallelSpec) -> Result<RankMap, CliError> {
    let served = ParallelSpec {
        tensor: parallel.tensor,
        pipeline: parallel.pipeline,
        pipeline_partition: parallel.pipeline_partition.clone(),
        data: parallel.data,
        micro_batch_max: parallel.micro_batch_max,
        ..ParallelSpec::default()
    };
    if *parallel != served {
        let what = "this version serves tensor, pipeline and data parallel layouts";
        return Err(CliError::usage(what)
            .hint("`playhouse plan` with the same flags shows where every rank would be"));
    }
    let refused = |broken: Vec<Violation>| {
        let lines: Vec<_> = broken.iter().map(advice::told).collect();
        CliError::usage(format!("the layout cannot run: {}", lines.join("\nerror: ")))
    };
    rank_map(parallel, shape).map_err(refused)?;
    rank_map(&ParallelSpec { data: 1, ..served }, shape).map_err(refused)
}
