//! The JSON of the API, as the server writes it and the command line reads it.

use std::ops::Range;

use playhouse_cluster::{
    ClusterStatus, DeviceStatus, NodeStatus, ReplicaState as State, ReplicaStatus,
    ShardState as Rank, ShardStatus, StageStatus,
};
use serde::{Deserialize, Serialize};

mod operation;

pub use self::operation::{
    Actual, Change, Deployment, DeploymentPatch, Drained, Operation, Operations, Phase, Plan,
    Shape, Step,
};

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// New requests are refused because the head goes down.
    pub draining: bool,
    /// Requests accepted and not yet finished.
    pub in_flight: u32,
    /// The head first, if ranks may run there, then the others by name.
    pub nodes: Vec<Node>,
    /// By id.
    pub replicas: Vec<Replica>,
    /// The operation that is under way, or `null`.
    #[serde(default)]
    pub operation: Option<Operation>,
}

/// A machine that ranks can run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it is connected from; `null` for the head itself.
    pub address: Option<String>,
    /// Whether it is connected.
    pub connected: bool,
    /// It was drained: it gets no ranks until somebody says otherwise.
    pub drained: bool,
    /// What it offers.
    pub devices: Vec<Device>,
}

/// Something a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name, unique on its node, such as `cpu:0`.
    pub name: String,
    /// Bytes of memory: its own, or its share of the node's.
    pub memory_bytes: u64,
    /// CPU threads that go with it.
    pub threads: u32,
}

/// One copy of the model. Counters count since the head started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Which one.
    pub id: u32,
    /// What it is doing.
    pub state: ReplicaState,
    /// Why its last rank died, while it restarts or when it failed; else `null`.
    pub reason: Option<String>,
    /// It serves, but nothing comes of its work for long.
    pub stalled: bool,
    /// How long it has had work and nothing came of it; `null` while it has none.
    pub seconds_without_progress: Option<u64>,
    /// Its steps take so many times what those of the other replicas take, which get its requests; `null`
    /// while it is as quick as they are.
    pub slower_than_peers: Option<u32>,
    /// Its incarnation: counts restarts.
    pub epoch: u64,
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences accepted and waiting.
    pub waiting: usize,
    /// KV blocks held by sequences.
    pub kv_blocks_held: usize,
    /// KV blocks there are.
    pub kv_blocks: usize,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queried_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// In order.
    pub stages: Vec<Stage>,
}

/// The life of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Its ranks have not all started yet.
    Starting,
    /// It takes work.
    Serving,
    /// A rank died; all start again. Requests wait.
    Restarting,
    /// It died too often and will not be restarted.
    Failed,
    /// It takes no more requests, and ends those it has.
    Draining,
    /// It has no ranks and no devices any more, until it is restarted.
    Drained,
    /// It was asked to stop.
    Stopped,
}

/// A stage of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Layers it holds; `end` is the first one after them.
    pub layers: Range<usize>,
    /// In order of their tensor ranks.
    pub shards: Vec<Shard>,
}

/// A rank and what it holds of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// What it is doing.
    pub state: ShardState,
    /// How far it has come with its weights, while it loads; else `null`.
    pub loading: Option<Loading>,
    /// Where it runs; `null` before it does.
    pub whereabouts: Option<Whereabouts>,
    /// Layers it holds; `end` is the first one after them.
    pub layers: Range<usize>,
    /// Query heads of each layer.
    pub query_heads: usize,
    /// Key-value heads of each layer; several ranks may hold the same.
    pub kv_heads: usize,
    /// Bytes of weights.
    pub weight_bytes: u64,
}

/// The life of a rank within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// It has no process yet, or is joining the others.
    Starting,
    /// It reads its weights.
    Loading,
    /// It executes plans.
    Ready,
    /// It is gone; its replica will start it again.
    Lost,
}

/// How far weights have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes to read.
    pub of_bytes: u64,
}

/// Where a rank runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Name of its node.
    pub node: String,
    /// Name of its device there.
    pub device: String,
    /// Its process.
    pub pid: u32,
}

/// Asks for a token that lets one node join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// How long it is good for: 1 to [`TTL_SECONDS_MAX`](crate::TTL_SECONDS_MAX). Signed, so that a
    /// negative one is refused by the name of the field.
    pub ttl_seconds: i64,
}

/// A token that lets one node join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// As `playhouse node --token` takes it.
    pub token: String,
    /// How long it is good for.
    pub expires_in_seconds: u64,
}

/// A node whose certificate is no longer good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Its name.
    pub node: String,
    /// Whether it was connected, and so was cut off.
    pub was_connected: bool,
}

/// The process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// `alive`.
    pub status: String,
}

/// Every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For programs; does not change.
    pub code: String,
    /// For people.
    pub message: String,
    /// The field of the request that is to blame, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The operation that is in the way, or that was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<u64>,
}

// === impl Cluster ===

impl Cluster {
    /// Replicas that take work, and something comes of it.
    #[must_use]
    pub fn serving(&self) -> usize {
        let serves =
            |replica: &&Replica| replica.state == ReplicaState::Serving && !replica.stalled;
        self.replicas.iter().filter(serves).count()
    }
}

impl From<ClusterStatus> for Cluster {
    fn from(status: ClusterStatus) -> Self {
        Self {
            draining: status.draining,
            in_flight: status.in_flight,
            nodes: status.nodes.into_iter().map(Node::from).collect(),
            replicas: status.replicas.into_iter().map(Replica::from).collect(),
            operation: None,
        }
    }
}

// === impl Node ===

impl From<NodeStatus> for Node {
    fn from(status: NodeStatus) -> Self {
        let NodeStatus { name, address, connected, drained, devices } = status;
        let devices = devices.into_iter().map(Device::from).collect();
        Self { name, address, connected, drained, devices }
    }
}

// === impl Device ===

impl From<DeviceStatus> for Device {
    fn from(status: DeviceStatus) -> Self {
        let DeviceStatus { name, memory_bytes, threads } = status;
        Self { name, memory_bytes, threads }
    }
}

// === impl Replica ===

impl From<ReplicaStatus> for Replica {
    fn from(status: ReplicaStatus) -> Self {
        let (stalled, waited) = (status.is_stalled(), status.progress.waited());
        let (state, reason) = match status.state {
            State::Starting => (ReplicaState::Starting, None),
            State::Serving => (ReplicaState::Serving, None),
            State::Restarting { reason } => (ReplicaState::Restarting, Some(reason)),
            State::Failed { reason } => (ReplicaState::Failed, Some(reason)),
            State::Draining => (ReplicaState::Draining, None),
            State::Drained => (ReplicaState::Drained, None),
            State::Stopped => (ReplicaState::Stopped, None),
        };
        Self {
            id: status.id.0,
            state,
            reason,
            stalled,
            seconds_without_progress: waited.map(|waited| waited.as_secs()),
            slower_than_peers: status.progress.slower_than_peers,
            epoch: status.epoch.0,
            running: status.running,
            waiting: status.waiting,
            kv_blocks_held: status.kv_blocks_held,
            kv_blocks: status.kv_blocks,
            prefix_queried_tokens: status.prefix_queried_tokens,
            prefix_hit_tokens: status.prefix_hit_tokens,
            prefill_tokens: status.prefill_tokens,
            generated_tokens: status.generated_tokens,
            stages: status.stages.into_iter().map(Stage::from).collect(),
        }
    }
}

// === impl Stage ===

impl From<StageStatus> for Stage {
    fn from(status: StageStatus) -> Self {
        let shards = status.shards.into_iter().map(Shard::from).collect();
        Self { layers: status.layers, shards }
    }
}

// === impl Shard ===

impl From<ShardStatus> for Shard {
    fn from(status: ShardStatus) -> Self {
        let ShardStatus { state, whereabouts, share } = status;
        let (state, loading) = match state {
            Rank::Starting => (ShardState::Starting, None),
            Rank::Loading { bytes, of } => {
                (ShardState::Loading, Some(Loading { bytes, of_bytes: of }))
            }
            Rank::Ready => (ShardState::Ready, None),
            Rank::Lost => (ShardState::Lost, None),
        };
        let seated = |place: playhouse_cluster::Whereabouts| Whereabouts {
            node: place.node,
            device: place.device,
            pid: place.pid,
        };
        Self {
            state,
            loading,
            whereabouts: whereabouts.map(seated),
            layers: share.layers,
            query_heads: share.query_heads,
            kv_heads: share.kv_heads,
            weight_bytes: share.weight_bytes,
        }
    }
}
