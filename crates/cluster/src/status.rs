//! What the cluster looks like from outside: for the admin API, readiness and people.

use std::ops::Range;

use playhouse_types::{Epoch, ReplicaId};

use crate::progress::Progress;

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// The head first, if ranks may run there, then the nodes by name.
    pub nodes: Vec<NodeStatus>,
    /// By id.
    pub replicas: Vec<ReplicaStatus>,
    /// Requests accepted and not yet finished.
    pub in_flight: u32,
    /// New requests are refused because the head goes down.
    pub draining: bool,
}

/// A machine that ranks can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Where it is connected from; `None` for the head itself.
    pub address: Option<String>,
    /// Whether it is connected.
    pub connected: bool,
    /// It was drained: it gets no ranks until somebody says otherwise.
    pub drained: bool,
    /// What it offers.
    pub devices: Vec<DeviceStatus>,
}

/// Something a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Its name, unique on its node, such as `cpu:0`.
    pub name: String,
    /// Bytes of memory: its own, or its share of the node's.
    pub memory_bytes: u64,
    /// CPU threads that go with it.
    pub threads: u32,
}

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    /// Which one.
    pub id: ReplicaId,
    /// What it is doing.
    pub state: ReplicaState,
    /// Whether something comes of its work.
    pub progress: Progress,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences accepted and waiting.
    pub waiting: usize,
    /// KV blocks held by sequences.
    pub kv_blocks_held: usize,
    /// KV blocks there are.
    pub kv_blocks: usize,
    /// Prompt tokens looked up in the prefix cache, since the head started.
    pub prefix_queried_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens computed, since the head started.
    pub prefill_tokens: u64,
    /// Tokens generated, since the head started.
    pub generated_tokens: u64,
    /// In order.
    pub stages: Vec<StageStatus>,
}

/// The life of a replica, published on every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Its ranks have not all started yet.
    Starting,
    /// It takes work.
    Serving,
    /// A rank died; all start again after a backoff. Requests wait.
    Restarting {
        /// Why the rank died.
        reason: String,
    },
    /// It died too often and will not be restarted.
    Failed {
        /// Why the last rank died.
        reason: String,
    },
    /// It takes no more requests, and ends those it has.
    Draining,
    /// It has no ranks and no devices any more, and starts again when it is told to.
    Drained,
    /// It was asked to stop.
    Stopped,
}

/// A stage of a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct StageStatus {
    /// Layers it holds.
    pub layers: Range<usize>,
    /// In order of their tensor ranks.
    pub shards: Vec<ShardStatus>,
}

/// A rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// What it is doing.
    pub state: ShardState,
    /// Where it runs, once it does.
    pub whereabouts: Option<Whereabouts>,
    /// What it holds.
    pub share: Share,
}

/// The life of a rank within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardState {
    /// It has no process yet, or is joining the others.
    Starting,
    /// It reads its weights.
    Loading {
        /// Bytes read.
        bytes: u64,
        /// Bytes to read.
        of: u64,
    },
    /// It executes plans.
    Ready,
    /// It is gone; its replica will start it again.
    Lost,
}

/// Where a rank runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Name of its node.
    pub node: String,
    /// Name of its device there.
    pub device: String,
    /// Its process.
    pub pid: u32,
}

/// What a rank holds of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Layers.
    pub layers: Range<usize>,
    /// Query heads of each layer.
    pub query_heads: usize,
    /// Key-value heads of each layer; several ranks may hold the same.
    pub kv_heads: usize,
    /// Bytes of weights.
    pub weight_bytes: u64,
}

// === impl ReplicaStatus ===

impl ReplicaStatus {
    /// It takes work.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.state == ReplicaState::Serving
    }

    /// It serves, and something comes of that.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.serves() && !self.progress.is_stalled()
    }

    /// It serves, and takes no longer for it than usual, nor than its peers.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.serves() && !self.progress.hesitates() && self.progress.slower_than_peers.is_none()
    }

    /// It says that it serves, and nothing comes of that.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.serves() && self.progress.is_stalled()
    }
}
