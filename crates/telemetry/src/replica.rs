//! Metrics that each replica of a model records.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::buckets::{SECONDS, TOKENS};
use crate::cause::{CauseCounters, CauseLabels};
use crate::names::{self, Name};
use crate::spellings::Spellings;

/// The metrics of one replica. Recorded by the cluster.
#[derive(Clone, Debug)]
pub struct ReplicaMetrics {
    /// Sequences in the batch.
    pub requests_running: Gauge,
    /// Sequences accepted and waiting.
    pub requests_waiting: Gauge,
    /// Used KV blocks over all KV blocks, 0 to 1.
    pub kv_cache_usage: Gauge<f64, AtomicU64>,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: Counter,
    /// Prompt tokens found in the prefix cache.
    pub prefix_cache_hits: Counter,
    /// Preemptions (by recomputation).
    pub preemptions: Counter,
    /// Tokens per step.
    pub iteration_tokens: Histogram,
    /// Seconds from acceptance to the first step.
    pub queue_time: Histogram,
    /// Seconds from the first step to the first token.
    pub prefill_time: Histogram,
    /// Seconds from the first to the last token.
    pub decode_time: Histogram,
    /// Seconds from the first step to the last token.
    pub inference_time: Histogram,
    /// KV blocks held by sequences.
    pub kv_blocks_held: Gauge,
    /// KV blocks in the pool.
    pub kv_blocks: Gauge,
    /// Restarts of the replica after ranks were lost.
    pub replica_restarts: CauseCounters,
    /// Epoch of the replica.
    pub epoch: Gauge,
    /// 1 while the replica serves and makes progress.
    pub healthy: Gauge,
    /// 1 while the replica is several times slower than its peers.
    pub outlier: Gauge,
    /// Requests that the replica lost to other replicas.
    pub migrations: CauseCounters,
    /// Seconds from the loss of the replica's ranks until it serves again.
    pub recovery_time: Histogram,
    /// Seconds from the last sign of life of ranks that hung until they were ended.
    pub hang_detection_time: Histogram,
    /// Seconds in which the replica had requests, for each stage.
    pub pipeline_time: Counter<f64, AtomicU64>,
    /// Seconds of `pipeline_time` in which a stage had no step.
    pub pipeline_idle_time: Counter<f64, AtomicU64>,
    engine: u32,
    cache_config: Family<BlockLabels, Gauge>,
}

/// The times that clients of one replica see. Recorded by the gateway.
#[derive(Clone, Debug)]
pub struct LatencyMetrics {
    /// Seconds from arrival to the first token.
    pub time_to_first_token: Histogram,
    /// Seconds between consecutive tokens of a generation, one observation per token but the first.
    pub inter_token_latency: Histogram,
}

/// A family of series for each metric of a replica.
#[derive(Debug)]
pub(crate) struct ReplicaFamilies {
    time_to_first_token: Histograms,
    inter_token_latency: Histograms,
    requests_running: Family<EngineLabel, Gauge>,
    requests_waiting: Family<EngineLabel, Gauge>,
    kv_cache_usage: Family<EngineLabel, Gauge<f64, AtomicU64>>,
    prefix_cache_queries: Family<EngineLabel, Counter>,
    prefix_cache_hits: Family<EngineLabel, Counter>,
    preemptions: Family<EngineLabel, Counter>,
    iteration_tokens: Histograms,
    queue_time: Histograms,
    prefill_time: Histograms,
    decode_time: Histograms,
    inference_time: Histograms,
    kv_blocks_held: Family<EngineLabel, Gauge>,
    kv_blocks: Family<EngineLabel, Gauge>,
    replica_restarts: Family<CauseLabels, Counter>,
    epoch: Family<EngineLabel, Gauge>,
    healthy: Family<EngineLabel, Gauge>,
    outlier: Family<EngineLabel, Gauge>,
    migrations: Family<CauseLabels, Counter>,
    recovery_time: Histograms,
    hang_detection_time: Histograms,
    pipeline_time: Family<EngineLabel, Counter<f64, AtomicU64>>,
    pipeline_idle_time: Family<EngineLabel, Counter<f64, AtomicU64>>,
    cache_config: Family<BlockLabels, Gauge>,
}

type Histograms = Family<EngineLabel, Histogram, Bounds>;

/// The label of a replica, in vLLM's words.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EngineLabel {
    engine: u32,
}

/// The block geometry of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    engine: u32,
    /// Tokens per block.
    block_size: u32,
    /// Blocks in the pool. vLLM uses this name on every device.
    num_gpu_blocks: u32,
}

/// The upper bounds of a histogram's buckets.
#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

// === impl ReplicaFamilies ===

impl ReplicaFamilies {
    pub(crate) fn new(add: &mut Spellings<'_>) -> Self {
        let mut histogram = |name: Name, bounds| -> Histograms {
            add.metric(name, Family::new_with_constructor(Bounds(bounds)))
        };
        let time_to_first_token = histogram(names::TIME_TO_FIRST_TOKEN, SECONDS);
        let inter_token_latency = histogram(names::INTER_TOKEN_LATENCY, SECONDS);
        let iteration_tokens = histogram(names::ITERATION_TOKENS, TOKENS);
        let queue_time = histogram(names::QUEUE_TIME, SECONDS);
        let prefill_time = histogram(names::PREFILL_TIME, SECONDS);
        let decode_time = histogram(names::DECODE_TIME, SECONDS);
        let inference_time = histogram(names::INFERENCE_TIME, SECONDS);
        let recovery_time = histogram(names::RECOVERY_TIME, SECONDS);
        let hang_detection_time = histogram(names::HANG_DETECTION_TIME, SECONDS);
        Self {
            time_to_first_token,
            inter_token_latency,
            requests_running: add.metric(names::REQUESTS_RUNNING, Family::default()),
            requests_waiting: add.metric(names::REQUESTS_WAITING, Family::default()),
            kv_cache_usage: add.metric(names::KV_CACHE_USAGE, Family::default()),
            prefix_cache_queries: add.metric(names::PREFIX_CACHE_QUERIES, Family::default()),
            prefix_cache_hits: add.metric(names::PREFIX_CACHE_HITS, Family::default()),
            preemptions: add.metric(names::PREEMPTIONS, Family::default()),
            iteration_tokens,
            queue_time,
            prefill_time,
            decode_time,
            inference_time,
            kv_blocks_held: add.metric(names::KV_BLOCKS_HELD, Family::default()),
            kv_blocks: add.metric(names::KV_BLOCKS, Family::default()),
            replica_restarts: add.metric(names::REPLICA_RESTARTS, Family::default()),
            epoch: add.metric(names::REPLICA_EPOCH, Family::default()),
            healthy: add.metric(names::REPLICA_HEALTHY, Family::default()),
            outlier: add.metric(names::REPLICA_OUTLIER, Family::default()),
            migrations: add.metric(names::MIGRATIONS, Family::default()),
            recovery_time,
            hang_detection_time,
            pipeline_time: add.metric(names::PIPELINE_TIME, Family::default()),
            pipeline_idle_time: add.metric(names::PIPELINE_IDLE_TIME, Family::default()),
            cache_config: add.metric(names::CACHE_CONFIG, Family::default()),
        }
    }

    /// Returns the latency metrics of one replica.
    pub(crate) fn latency(&self, engine: u32) -> LatencyMetrics {
        let label = &EngineLabel { engine };
        LatencyMetrics {
            time_to_first_token: self.time_to_first_token.get_or_create_owned(label),
            inter_token_latency: self.inter_token_latency.get_or_create_owned(label),
        }
    }

    /// Returns the series of one replica, which appear with this call.
    pub(crate) fn of(&self, engine: u32) -> ReplicaMetrics {
        drop(self.latency(engine));
        let label = &EngineLabel { engine };
        ReplicaMetrics {
            requests_running: self.requests_running.get_or_create_owned(label),
            requests_waiting: self.requests_waiting.get_or_create_owned(label),
            kv_cache_usage: self.kv_cache_usage.get_or_create_owned(label),
            prefix_cache_queries: self.prefix_cache_queries.get_or_create_owned(label),
            prefix_cache_hits: self.prefix_cache_hits.get_or_create_owned(label),
            preemptions: self.preemptions.get_or_create_owned(label),
            iteration_tokens: self.iteration_tokens.get_or_create_owned(label),
            queue_time: self.queue_time.get_or_create_owned(label),
            prefill_time: self.prefill_time.get_or_create_owned(label),
            decode_time: self.decode_time.get_or_create_owned(label),
            inference_time: self.inference_time.get_or_create_owned(label),
            kv_blocks_held: self.kv_blocks_held.get_or_create_owned(label),
            kv_blocks: self.kv_blocks.get_or_create_owned(label),
            replica_restarts: CauseCounters::of(&self.replica_restarts, engine),
            epoch: self.epoch.get_or_create_owned(label),
            healthy: self.healthy.get_or_create_owned(label),
            outlier: self.outlier.get_or_create_owned(label),
            migrations: CauseCounters::of(&self.migrations, engine),
            recovery_time: self.recovery_time.get_or_create_owned(label),
            hang_detection_time: self.hang_detection_time.get_or_create_owned(label),
            pipeline_time: self.pipeline_time.get_or_create_owned(label),
            pipeline_idle_time: self.pipeline_idle_time.get_or_create_owned(label),
            engine,
            cache_config: self.cache_config.clone(),
        }
    }
}

// === impl ReplicaMetrics ===

impl ReplicaMetrics {
    /// Sets the block geometry of the replica, in place of the previous one.
    pub fn has_blocks(&self, block_size: u32, blocks: u32) {
        let labels =
            |num_gpu_blocks| BlockLabels { engine: self.engine, block_size, num_gpu_blocks };
        if let Ok(before) = u32::try_from(self.kv_blocks.get())
            && before != blocks
        {
            self.cache_config.remove(&labels(before));
        }
        let labels = labels(blocks);
        self.cache_config.get_or_create(&labels).set(1);
        self.kv_blocks.set(blocks.into());
    }
}

// === impl Bounds ===

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}
