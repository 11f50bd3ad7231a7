//! Blueprints: how a replica is made, for each parallel layout.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use playhouse_layout::RankMap;
use playhouse_scheduler::Limits;
use playhouse_types::ParallelSpec;

use crate::rank::RankStarter;
use crate::status::Share;

/// Everything that a replica is made from.
#[derive(Clone)]
pub struct Blueprint {
    /// The parallel layout of the replica.
    pub layout: ParallelSpec,
    /// The ranks of the replica, and their groups.
    pub map: Arc<RankMap>,
    /// The share of the model that each rank holds, stage by stage.
    pub shares: Vec<Share>,
    /// Maximum number of steps in flight. One more than there are stages lets the first stage begin a
    /// step while the last reports (the batch queue of vLLM's `step_with_batch_queue`); a single stage
    /// with [`Limits::lookahead`] then begins a step before the outcome of the last has been seen
    /// (vLLM's asynchronous scheduling).
    pub concurrent_batches: usize,
    /// Bounds of the scheduler and the KV cache. The longest context is the same in all blueprints of a
    /// deployment, because requests move between replicas.
    pub limits: Limits,
    /// Makes the starter of the ranks of one replica. Dropping the starter ends the ranks that are left.
    pub starter: Arc<dyn Fn() -> RankStarter + Send + Sync>,
}

/// Works out the blueprint of a replica with the given layout, for which weights may have to be read.
/// Never blocks.
pub type Blueprints = Arc<dyn Fn(ParallelSpec) -> Drafting + Send + Sync>;

/// Resolves to the blueprint of a replica, or to the reason why the model cannot be divided by that
/// layout.
pub type Drafting = Pin<Box<dyn Future<Output = Result<Blueprint, String>> + Send>>;

// === impl Blueprint ===

impl fmt::Debug for Blueprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blueprint").field("layout", &self.layout).finish_non_exhaustive()
    }
}
