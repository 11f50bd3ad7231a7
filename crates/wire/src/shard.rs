//! The stream between the head and one shard, open as long as an epoch lasts. Dropping it ends the
//! engine of the epoch; the shard keeps its weights for the next.

use std::fmt;
use std::num::NonZeroU32;

use playhouse_layout::{GroupKind, Share};
use playhouse_types::{CheckpointDigest, Epoch};

use crate::Request;
use crate::message::message;

/// The head to a shard.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ShardCommand {
    /// Hold this part of the model; the first command. Progress follows, then `Loaded` or `Failed`.
    Load(Load),
    /// Join the groups and take plans; the second and last. `Ready` or `Failed` follows.
    Join(Join),
}

/// A part of a model.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Load {
    /// Directory of the checkpoint, on the shard's machine; `None` is the embedded one.
    pub model: Option<String>,
    /// In which type weights are held.
    pub dtype: Dtype,
    /// What it holds of the model.
    pub share: Share,
    /// The kinds of its groups: those that are split over several ranks.
    pub groups: Vec<GroupKind>,
    /// CPU threads.
    pub threads: u32,
}

/// An epoch to take part in.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Join {
    /// Plans of other epochs are refused.
    pub epoch: Epoch,
    /// The groups it computes with, as `Load` names them.
    pub groups: Vec<(GroupKind, Group)>,
    /// Blocks of its KV cache.
    pub kv_blocks: u32,
    /// Tokens of each of them.
    pub block_tokens: NonZeroU32,
    /// Sequences that have a seat.
    pub max_num_seqs: u32,
}

/// In which type weights and activations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Dtype {
    /// As in the checkpoint.
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

/// Ranks that exchange tensors.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Group {
    /// Its name, unique in the cluster.
    pub name: String,
    /// What its members have in common and nobody else.
    pub secret: [u8; 32],
    /// This shard's rank in it.
    pub rank: u32,
    /// Where each rank is, in order.
    pub members: Vec<Member>,
}

/// Where a rank exchanges tensors.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Member {
    /// Ranks of the same machine share memory.
    pub machine: String,
    /// Where it listens for the ranks of other machines, `address:port`.
    pub address: String,
}

/// A shard to the head.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ShardEvent {
    /// How far loading has come.
    Progress {
        /// Bytes of weights read.
        bytes: u64,
        /// Bytes to read.
        of: u64,
    },
    /// It has its part of the model.
    Loaded(Loaded),
    /// It takes plans.
    Ready,
    /// It does not; the text says why, for a person.
    Failed(String),
}

/// A shard with weights.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Loaded {
    /// Where it meets the other ranks of each of its groups.
    pub members: Vec<(GroupKind, Member)>,
    /// The checkpoint that it is a part of.
    pub checkpoint: CheckpointDigest,
}

message!(ShardCommand, ShardCommand);
message!(ShardEvent, ShardEvent);

impl Request for ShardCommand {
    type Reply = ShardEvent;
}

impl fmt::Debug for Group {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, rank, members, .. } = self;
        let mut group = f.debug_struct("Group");
        group.field("name", name).field("rank", rank).field("members", members).finish()
    }
}
