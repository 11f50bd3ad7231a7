//! The JSON of the API, as the server writes it and the command line reads it.

use std::ops::Range;

use playhouse_cluster::{
    ClusterStatus, DeviceStatus, NodeStatus, ReplicaState as State, ReplicaStatus,
    ShardState as Rank, ShardStatus, StageStatus,
};
use serde::{Deserialize, Serialize};

mod operation;

pub use self::operation::{
    Actual, Change, Deployment, DeploymentPatch, Drained, Operation, OperationList, Phase, Plan,
    Shape, Step,
};

/// The state of the cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Whether new requests are refused because the head shuts down.
    pub draining: bool,
    /// The number of accepted and unfinished requests.
    pub in_flight: u32,
    /// The nodes: the head first, if ranks may run there, then the others by name.
    pub nodes: Vec<Node>,
    /// The replicas, in the order of their ids.
    pub replicas: Vec<Replica>,
    /// The operation that is under way, or `null`.
    #[serde(default)]
    pub operation: Option<Operation>,
}

/// A machine that ranks can run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The name of the node.
    pub name: String,
    /// The address from which the node is connected; `null` for the head itself.
    pub address: Option<String>,
    /// Whether the node is connected.
    pub connected: bool,
    /// Whether the node was drained: it gets no ranks until it is undrained.
    pub drained: bool,
    /// The devices that the node offers.
    pub devices: Vec<Device>,
}

/// A device that a rank can run on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The name of the device, unique on its node, such as `cpu:0`.
    pub name: String,
    /// The bytes of the device's memory: its own, or its share of the node's.
    pub memory_bytes: u64,
    /// The number of CPU threads of the device.
    pub threads: u32,
}

/// One copy of the model. Its counters count since the head started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The id of the replica.
    pub id: u32,
    /// The state of the replica.
    pub state: ReplicaState,
    /// The reason why its last rank died, while the replica restarts or when it failed; else `null`.
    pub reason: Option<String>,
    /// The devices that its ranks wait for, and the nodes that had them; `null` while the ranks have
    /// devices.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// Whether the replica serves, but has made no progress for long.
    pub stalled: bool,
    /// How long the replica has had work without progress; `null` while it has none.
    pub seconds_without_progress: Option<u64>,
    /// How many times slower its steps are than those of the other replicas, which get its requests;
    /// `null` while the replica is as fast as they are.
    pub slower_than_peers: Option<u32>,
    /// The replica's incarnation: counts restarts.
    pub epoch: u64,
    /// The number of sequences in the batch.
    pub running: usize,
    /// The number of accepted sequences that wait for the batch.
    pub waiting: usize,
    /// The number of KV blocks held by sequences.
    pub kv_blocks_held: usize,
    /// The number of KV blocks.
    pub kv_blocks: usize,
    /// The number of prompt tokens looked up in the prefix cache.
    pub prefix_queried_tokens: u64,
    /// The number of prompt tokens found in the prefix cache.
    pub prefix_hit_tokens: u64,
    /// The number of prompt tokens computed.
    pub prefill_tokens: u64,
    /// The number of tokens generated.
    pub generated_tokens: u64,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// The state of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Not all ranks of the replica have started yet.
    Starting,
    /// The replica takes requests.
    Serving,
    /// A rank died, and all ranks start again. Requests wait.
    Restarting,
    /// The replica died too often and is not restarted.
    Failed,
    /// The replica takes no more requests, and ends the ones it has.
    Draining,
    /// The replica has no ranks and no devices any more, until it is restarted.
    Drained,
    /// The replica was asked to stop.
    Stopped,
}

/// A stage of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The layers of the stage; `end` is the first one after them.
    pub layers: Range<usize>,
    /// The ranks of the stage, in the order of their tensor ranks.
    pub shards: Vec<Shard>,
}

/// A rank with its share of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The state of the rank.
    pub state: ShardState,
    /// The progress of its weights, while the rank loads; else `null`.
    pub loading: Option<Loading>,
    /// The process and the device of the rank; `null` before it runs.
    pub whereabouts: Option<Whereabouts>,
    /// The layers of the rank; `end` is the first one after them.
    pub layers: Range<usize>,
    /// The number of query heads of each layer.
    pub query_heads: usize,
    /// The number of key-value heads of each layer; several ranks may hold the same.
    pub kv_heads: usize,
    /// The bytes of weights.
    pub weight_bytes: u64,
}

/// The state of a rank within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// The rank has no process yet, or is joining the others.
    Starting,
    /// The rank reads its weights.
    Loading,
    /// The rank executes plans.
    Ready,
    /// The rank is gone; its replica will start it again.
    Lost,
    /// The rank has ended as it was told to, because its replica was drained or stopped.
    Ended,
}

/// The progress of reading weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    /// The number of bytes read.
    pub bytes: u64,
    /// The number of bytes to read.
    pub of_bytes: u64,
}

/// The place where a rank runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The name of the rank's node.
    pub node: String,
    /// The name of the rank's device on that node.
    pub device: String,
    /// The id of the rank's process.
    pub pid: u32,
}

/// A request for a token that lets one node join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// How long the token is valid: 1 to [`TTL_SECONDS_MAX`](crate::TTL_SECONDS_MAX). Signed, so that a
    /// negative number is refused by the name of the field.
    pub ttl_seconds: i64,
}

/// A token that lets one node join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The token, in the form that `playhouse node --token` takes.
    pub token: String,
    /// How long the token is valid.
    pub expires_in_seconds: u64,
}

/// A node whose certificate was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The name of the node.
    pub node: String,
    /// Whether the node was connected, and so was disconnected.
    pub was_connected: bool,
}

/// The answer of the liveness probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Liveness {
    /// The text `alive`.
    pub status: String,
}

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// The error in the body of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The code of the error, for programs; does not change between versions.
    pub code: String,
    /// The message of the error, for people.
    pub message: String,
    /// The field of the request that is to blame, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The operation that is under way, or that the request named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<u64>,
}

// === impl Cluster ===

impl Cluster {
    /// Returns the number of replicas that take requests and make progress.
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
            waits_for: status.waits_for,
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
            Rank::Ended => (ShardState::Ended, None),
        };
        let located = |place: playhouse_cluster::Whereabouts| Whereabouts {
            node: place.node,
            device: place.device,
            pid: place.pid,
        };
        Self {
            state,
            loading,
            whereabouts: whereabouts.map(located),
            layers: share.layers,
            query_heads: share.query_heads,
            kv_heads: share.kv_heads,
            weight_bytes: share.weight_bytes,
        }
    }
}
