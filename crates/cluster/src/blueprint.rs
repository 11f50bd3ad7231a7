//! How a replica is made, for each way of dividing it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use playhouse_layout::RankMap;
use playhouse_scheduler::Limits;
use playhouse_types::ParallelSpec;

use crate::rank::RankStarter;
use crate::status::Share;

/// What a replica is made from.
#[derive(Clone)]
pub struct Blueprint {
    /// How it is divided.
    pub layout: ParallelSpec,
    /// Its ranks, and their groups.
    pub map: Arc<RankMap>,
    /// What each of them holds, stage by stage.
    pub shares: Vec<Share>,
    /// Steps in flight at most. One more than there are stages lets the first begin a step while
    /// the last reports (the batch queue of vLLM's `step_with_batch_queue`); a single stage with
    /// [`Limits::lookahead`] then begins a step before the outcome of the last has been seen (its
    /// asynchronous scheduling).
    pub concurrent_batches: usize,
    /// Bounds of its scheduler and its KV cache. How long a context may be is the same in all
    /// blueprints of a deployment, because requests move between replicas.
    pub limits: Limits,
    /// Makes what starts the ranks of one replica. Dropping that ends what is left of them.
    pub starter: Arc<dyn Fn() -> RankStarter + Send + Sync>,
}

/// Works out how to make a replica, for which weights may have to be read. Never blocks.
pub type Blueprints = Arc<dyn Fn(ParallelSpec) -> Drafting + Send + Sync>;

/// Ends with how to make a replica, or says why the model cannot be divided like that.
pub type Drafting = Pin<Box<dyn Future<Output = Result<Blueprint, String>> + Send>>;

// === impl Blueprint ===

impl fmt::Debug for Blueprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blueprint").field("layout", &self.layout).finish_non_exhaustive()
    }
}
