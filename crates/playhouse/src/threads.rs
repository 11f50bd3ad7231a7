//! Ranks that are engine threads of this process.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use playhouse_cluster::{
    HEAD, RankEvent, RankHandle, RankPort, RankSink, StartedRank, Whereabouts,
};
use playhouse_collectives::{AbortHandle, Member, Secret};
use playhouse_engine::{EngineConfig, EngineEvent};
use playhouse_layout::{Coordinates, GroupKind, RankId, RankMap};
use playhouse_model::{Shard, Weights};
use playhouse_ops::Threads;
use playhouse_scheduler::Limits;
use playhouse_types::DecoderSpec;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::error::CliError;
use crate::isolation::StarterMaker;
use crate::layout::ServedLayout;
use crate::loading::Loaded;
use crate::progress::{Progress, Unit};
use crate::ranks::{GroupSeat, RankModel};

/// The ranks of every layout that is in use.
pub(crate) struct ThreadRanks {
    threads_each: NonZeroUsize,
    /// The weights of each layout, which its replicas share, for as long as there are any.
    held: Mutex<Vec<Held>>,
}

/// What the ranks of a replica hold.
struct Held {
    shards: Vec<Shard>,
    weights: Weak<Vec<Weights>>,
}

/// Threads of a rank that may hang at once. Each keeps its KV cache, and nothing can end it.
const HUNG_MAX: usize = 2;

/// A rank of this process.
struct ThreadRank {
    spec: DecoderSpec,
    /// Of all ranks of its replica.
    weights: Arc<Vec<Weights>>,
    /// Which of them are its own.
    index: usize,
    threads: Threads,
    /// Engines that were aborted. Those that still live hang.
    aborted: Arc<Mutex<Vec<Weak<Running>>>>,
}

/// Lives as long as the thread of an engine. Its drop says that the engine has ended.
struct Running {
    _ended: oneshot::Sender<()>,
}

/// An engine thread, as its replica holds it.
struct ThreadHandle {
    groups: AbortHandle,
    running: Weak<Running>,
    aborted: Arc<Mutex<Vec<Weak<Running>>>>,
}

// === impl ThreadRanks ===

impl ThreadRanks {
    pub(crate) fn new(threads_each: NonZeroUsize) -> Self {
        Self { threads_each, held: Mutex::default() }
    }

    /// What starts the ranks of replicas of a layout, with weights that are read now unless there
    /// are such replicas already.
    ///
    /// # Errors
    /// What is wrong with the weights.
    pub(crate) fn starters(
        &self,
        loaded: &Loaded,
        served: &ServedLayout,
        limits: &Limits,
    ) -> Result<StarterMaker, CliError> {
        let weights = self.weights(loaded, served)?;
        let (map, threads_each) = (Arc::clone(&served.map), self.threads_each);
        let Limits { kv_blocks, block_size, max_num_seqs, .. } = *limits;
        let spec = loaded.shape.spec.clone();
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
        loaded: &Loaded,
        served: &ServedLayout,
    ) -> Result<Arc<Vec<Weights>>, CliError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|held| held.weights.strong_count() > 0);
        let same = held.iter().find(|held| held.shards == served.shards);
        if let Some(weights) = same.and_then(|held| held.weights.upgrade()) {
            return Ok(weights);
        }
        let load = |shard| {
            let mut progress = None;
            let spec = &loaded.shape.spec;
            Weights::load(&loaded.checkpoint, spec, shard, served.dtype, |done, total| {
                let start = || Progress::start("loading weights", total as u64, Unit::Bytes);
                progress.get_or_insert_with(start).set(done as u64);
            })
        };
        let weights = served.shards.iter().map(load).collect::<Result<Vec<_>, _>>();
        let weights = Arc::new(weights.map_err(|why| CliError::failure(why.to_string()))?);
        let shards = served.shards.clone();
        held.push(Held { shards, weights: Arc::downgrade(&weights) });
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
        let seat = |kind: GroupKind| {
            let (at, ranks) = map.group_of(kind, index);
            // A group is called after its first rank.
            let first = ranks.first().copied().unwrap_or_default();
            let member = Member { machine: "this process".to_owned(), address: None };
            let seat = GroupSeat {
                name: format!("playhouse-{pid}-{replica}-{}-{first}", kind.label()),
                // Of use between machines alone.
                secret: Secret([0; 32]),
                members: vec![member; ranks.len()],
                rank: at,
                listener: None,
            };
            (kind, seat)
        };
        let groups = map.group_kinds().into_iter().map(seat).collect();
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

    /// What a new engine computes with. Threads of an engine that hangs are not waited for, but left
    /// behind, up to [`HUNG_MAX`] of them.
    fn model(&self, map: &RankMap, rank: RankId) -> io::Result<RankModel> {
        let mut aborted = lock(&self.aborted);
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
        lock(&self.aborted).push(Weak::clone(&self.running));
        self.groups.abort();
    }

    /// Its weights are those of other replicas too.
    fn vacate(&self) {}
}

impl fmt::Debug for ThreadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadHandle").field("running", &self.running.strong_count()).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
