//! The status of a cluster as seen from outside: for the admin API, readiness and people.

use std::ops::Range;

use playhouse_types::{Epoch, ReplicaId};

use crate::progress::Progress;

/// The status of a cluster at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// The nodes: the head first, if ranks may run there, then the others by name.
    pub nodes: Vec<NodeStatus>,
    /// The replicas, ordered by id.
    pub replicas: Vec<ReplicaStatus>,
    /// The number of requests accepted and not yet finished.
    pub in_flight: u32,
    /// Whether new requests are refused because the head goes down.
    pub draining: bool,
}

/// The status of a node, a machine that ranks can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The name of the node.
    pub name: String,
    /// The address from which the node is connected; `None` for the head itself.
    pub address: Option<String>,
    /// Whether the node is connected.
    pub connected: bool,
    /// Whether the node was drained: it gets no ranks until an operator undrains it.
    pub drained: bool,
    /// The devices that the node offers.
    pub devices: Vec<DeviceStatus>,
}

/// A device on which a rank can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The name of the device, unique on its node, such as `cpu:0`.
    pub name: String,
    /// Bytes of memory: the device's own, or its share of the node's.
    pub memory_bytes: u64,
    /// The number of CPU threads that go with the device.
    pub threads: u32,
}

/// The status of a replica at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    /// The id of the replica.
    pub id: ReplicaId,
    /// The state of the replica.
    pub state: ReplicaState,
    /// The devices that the ranks of the replica wait for, and the nodes that had them; `None` while the
    /// ranks have devices.
    pub waits_for: Option<String>,
    /// Whether the replica's work has results.
    pub progress: Progress,
    /// The incarnation of the replica's ranks.
    pub epoch: Epoch,
    /// The number of sequences in the batch.
    pub running: usize,
    /// The number of sequences accepted and waiting.
    pub waiting: usize,
    /// The number of KV blocks held by sequences.
    pub kv_blocks_held: usize,
    /// The total number of KV blocks.
    pub kv_blocks: usize,
    /// Prompt tokens looked up in the prefix cache, since the head started.
    pub prefix_queried_tokens: u64,
    /// Prompt tokens found in the prefix cache, since the head started.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens computed, since the head started.
    pub prefill_tokens: u64,
    /// Tokens generated, since the head started.
    pub generated_tokens: u64,
    /// The stages of the replica, in order.
    pub stages: Vec<StageStatus>,
}

/// The state of a replica, published on every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// The ranks of the replica have not all started yet.
    Starting,
    /// The replica takes work.
    Serving,
    /// A rank died; all start again after a backoff. Requests wait.
    Restarting {
        /// The reason why the rank died.
        reason: String,
    },
    /// The replica died too often and is given up.
    Failed {
        /// The reason why the last rank died.
        reason: String,
    },
    /// The replica takes no more requests, and ends those that it has.
    Draining,
    /// The replica has no ranks and no devices any more, and starts again when it is told to.
    Drained,
    /// The replica was asked to stop.
    Stopped,
}

/// The status of a stage of a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct StageStatus {
    /// The layers that the stage holds.
    pub layers: Range<usize>,
    /// The ranks of the stage, ordered by tensor rank.
    pub shards: Vec<ShardStatus>,
}

/// The status of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The state of the rank.
    pub state: ShardState,
    /// Where the rank runs, once it does.
    pub whereabouts: Option<Whereabouts>,
    /// The share of the model that the rank holds.
    pub share: Share,
}

/// The state of a rank within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardState {
    /// The rank has no process yet, or is joining the others.
    Starting,
    /// The rank reads its weights.
    Loading {
        /// Bytes read.
        bytes: u64,
        /// Bytes to read.
        of: u64,
    },
    /// The rank executes plans.
    Ready,
    /// The rank is gone; its replica will start it again.
    Lost,
    /// The rank has ended as it was told to, because its replica was drained or stopped.
    Ended,
}

/// The place where a rank runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// The name of its node.
    pub node: String,
    /// The name of its device there.
    pub device: String,
    /// The id of its process.
    pub pid: u32,
}

/// The share of the model that a rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The layers that the rank holds.
    pub layers: Range<usize>,
    /// The number of query heads of each layer.
    pub query_heads: usize,
    /// The number of key-value heads of each layer; several ranks may hold the same.
    pub kv_heads: usize,
    /// The bytes of the rank's weights.
    pub weight_bytes: u64,
}

// === impl ReplicaStatus ===

impl ReplicaStatus {
    /// Returns whether the replica takes work.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.state == ReplicaState::Serving
    }

    /// Returns whether the replica serves and is not stalled.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.serves() && !self.progress.is_stalled()
    }

    /// Returns whether the replica serves, and takes no longer than usual, nor than its peers.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.serves() && !self.progress.hesitates() && self.progress.slower_than_peers.is_none()
    }

    /// Returns whether the replica says that it serves, but its work has no results.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.serves() && self.progress.is_stalled()
    }
}
