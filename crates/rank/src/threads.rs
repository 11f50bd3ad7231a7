//! Ranks that run as engine threads of this process.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use playhouse_cluster::{
    HEAD, RankEvent, RankHandle, RankPort, RankSink, RankStarter, StartedRank, Whereabouts,
};
use playhouse_collectives::{AbortHandle, Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent};
use playhouse_layout::{Coordinates, GroupKind, RankId, RankMap};
use playhouse_model::{Checkpoint, Dtype, Shard, Weights, WeightsError};
use playhouse_ops::Threads;
use playhouse_scheduler::Limits;
use playhouse_types::DecoderSpec;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::group_place::GroupPlace;
use crate::model::RankModel;

/// The maker of starters for the ranks of one replica.
pub type StarterMaker = Arc<dyn Fn() -> RankStarter + Send + Sync>;

/// The model that the ranks of a replica compute with.
#[derive(Clone, Debug)]
pub struct ReplicaModel {
    /// Source of the weights.
    pub checkpoint: Checkpoint,
    /// The whole decoder.
    pub spec: DecoderSpec,
    /// Type in which weights are held.
    pub dtype: Dtype,
    /// Map of the replica's ranks.
    pub map: Arc<RankMap>,
    /// Part of the model that each rank holds, in rank order.
    pub shards: Vec<Shard>,
}

/// The ranks, as threads of this process, of every layout that is in use.
pub struct ThreadRanks {
    threads_each: NonZeroUsize,
    /// Weights of each layout, shared by its replicas and kept as long as one of these exists.
    held: Mutex<Vec<HeldWeights>>,
    /// The digest of the weights that were read first: all replicas serve the same.
    digest: OnceLock<[u8; 32]>,
}

/// The weights that the ranks of a replica hold.
struct HeldWeights {
    shards: Vec<Shard>,
    weights: Weak<Vec<Weights>>,
}

/// Most threads of a rank that may hang at once. Each keeps its KV cache, and nothing can end it.
const HUNG_MAX: usize = 2;

/// A rank of this process.
struct ThreadRank {
    spec: DecoderSpec,
    /// Weights of all ranks of the replica.
    weights: Arc<Vec<Weights>>,
    /// Index of this rank's own weights.
    index: usize,
    threads: Threads,
    /// Engines that were aborted. Those that still exist hang.
    aborted: Arc<Mutex<Vec<Weak<Running>>>>,
}

/// A marker with the lifetime of an engine thread. Its drop reports that the engine has ended.
struct Running {
    _ended: oneshot::Sender<()>,
}

/// The handle through which a replica holds an engine thread.
struct ThreadHandle {
    groups: AbortHandle,
    running: Weak<Running>,
    aborted: Arc<Mutex<Vec<Weak<Running>>>>,
}

// === impl ThreadRanks ===

impl ThreadRanks {
    /// Returns a set of ranks that run on `threads_each` threads each.
    #[must_use]
    pub fn new(threads_each: NonZeroUsize) -> Self {
        Self { threads_each, held: Mutex::default(), digest: OnceLock::new() }
    }

    /// Returns a maker of starters for the ranks of a replica of the model. Weights are read now, unless
    /// replicas of the model already hold them. `progress` receives the bytes done and the bytes in all of
    /// each rank, first with 0 done.
    ///
    /// # Errors
    /// When the weights are missing or malformed.
    pub fn starters(
        &self,
        model: &ReplicaModel,
        limits: &Limits,
        progress: impl FnMut(usize, usize),
    ) -> Result<StarterMaker, WeightsError> {
        let weights = self.weights(model, progress)?;
        let (map, threads_each) = (Arc::clone(&model.map), self.threads_each);
        let Limits { kv_blocks, block_size, max_num_seqs, .. } = *limits;
        let spec = model.spec.clone();
        Ok(Arc::new(move || {
            let rank = |index| ThreadRank {
                spec: spec.clone(),
                weights: Arc::clone(&weights),
                index,
                // A pool of threads serves one rank.
                threads: Threads::new(threads_each),
                aborted: Arc::default(),
            };
            let ranks: Vec<_> = (0..weights.len()).map(rank).collect();
            let map = Arc::clone(&map);
            Arc::new(move |epoch, rank: RankId, sink| {
                let kv_blocks = kv_blocks as usize;
                let config = EngineConfig { epoch, kv_blocks, block_size, max_num_seqs };
                ranks[rank.at()].start(&map, rank, config, sink)
            })
        }))
    }

    fn weights(
        &self,
        model: &ReplicaModel,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Arc<Vec<Weights>>, WeightsError> {
        let mut held = self.held.lock();
        held.retain(|held| held.weights.strong_count() > 0);
        let same = held.iter().find(|held| held.shards == model.shards);
        if let Some(weights) = same.and_then(|held| held.weights.upgrade()) {
            return Ok(weights);
        }
        let ReplicaModel { checkpoint, spec, dtype, shards, .. } = model;
        let digest = match self.digest.get() {
            Some(digest) => digest,
            None => &Weights::digest(checkpoint)?,
        };
        let load = |shard| Weights::load(checkpoint, spec, shard, *dtype, &mut progress);
        let weights = Arc::new(shards.iter().map(load).collect::<Result<Vec<_>, _>>()?);
        Weights::check_digest(checkpoint, digest)?;
        self.digest.get_or_init(|| *digest);
        held.push(HeldWeights { shards: shards.clone(), weights: Arc::downgrade(&weights) });
        Ok(weights)
    }
}

// === impl ThreadRank ===

impl ThreadRank {
    fn start(
        &self,
        map: &RankMap,
        rank: RankId,
        config: EngineConfig,
        sink: RankSink,
    ) -> io::Result<StartedRank> {
        let model = self.model(map, rank)?;
        let RankId { replica, index } = rank;
        let pid = std::process::id();
        let place = |kind: GroupKind| {
            let (at, ranks) = map.group_of(kind, index);
            // A group is called after its first rank.
            let first = ranks.first().copied().unwrap_or_default();
            let member = Member { machine: "this process".to_owned(), address: None };
            let place = GroupPlace {
                name: format!("playhouse-{pid}-{replica}-{}-{first}", kind.label()),
                // Of use between machines alone.
                secret: Secret([0; 32]),
                members: vec![member; ranks.len()],
                rank: at,
                listener: None,
            };
            (kind, place)
        };
        let groups = map.group_kinds().into_iter().map(place).collect();
        let device = replica.0 as usize * map.replica_ranks() + rank.at();
        let (node, device) = (HEAD.to_owned(), format!("cpu:{device}"));
        sink(RankEvent::Placed(Whereabouts { node, device, pid }));
        let (ended, end) = oneshot::channel();
        let running = Arc::new(Running { _ended: ended });
        let handle = ThreadHandle {
            groups: AbortHandle::new(),
            running: Arc::downgrade(&running),
            aborted: Arc::clone(&self.aborted),
        };
        let on_event = move |event: EngineEvent| {
            // It ends with its thread.
            let _running = &running;
            sink(event.into());
        };
        let (port, thread) = model.start(config, groups, handle.groups.clone(), on_event)?;
        let ended = async move {
            // A thread that hangs must not keep a thread waiting that the runtime joins.
            drop(end.await);
            drop(spawn_blocking(move || thread.join()).await);
        };
        let (port, handle) = (RankPort::Engine(port), Arc::new(handle));
        Ok(StartedRank { port, handle, ended: Box::pin(ended) })
    }

    /// Returns the model for a new engine. Threads of an engine that hangs are not waited for, but left
    /// behind, up to [`HUNG_MAX`] of them.
    fn model(&self, map: &RankMap, rank: RankId) -> io::Result<RankModel> {
        let mut aborted = self.aborted.lock();
        aborted.retain(|engine| engine.strong_count() > 0);
        let Coordinates { stage, stage_rank, .. } = map.coordinates(rank.index);
        let hung = aborted.len();
        if hung >= HUNG_MAX {
            return Err(io::Error::other(format!(
                "{hung} engine threads of stage {stage} shard {stage_rank} hang and cannot be ended: \
                 restart the server, and give it --isolation process, so that ranks can be killed"
            )));
        }
        let (spec, weights) = (self.spec.clone(), self.weights[self.index].clone());
        let mut model = RankModel { spec, weights, threads: self.threads.clone() };
        if hung > 0 {
            let replica = rank.replica;
            warn!(%replica, stage, shard = stage_rank, hung, "an engine thread hangs: it keeps its KV cache");
            // It may hold its pool.
            let count = NonZeroUsize::new(model.threads.count()).unwrap_or(NonZeroUsize::MIN);
            model.threads = Threads::new(count);
        }
        Ok(model)
    }
}

// === impl ThreadHandle ===

impl RankHandle for ThreadHandle {
    fn abort(&self) {
        self.aborted.lock().push(Weak::clone(&self.running));
        self.groups.abort();
    }

    /// Does nothing: other replicas may use the same weights.
    fn vacate(&self) {}
}

impl fmt::Debug for ThreadRanks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadRanks")
            .field("threads_each", &self.threads_each)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ThreadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadHandle").field("running", &self.running.strong_count()).finish()
    }
}
