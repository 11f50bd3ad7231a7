//! The stream between the head and one shard, open for an epoch. The end of the stream ends the engine of
//! the epoch; the shard keeps its weights for the next one.

use std::fmt;
use std::num::NonZeroU32;

use playhouse_layout::{GroupKind, Share};
use playhouse_types::{CheckpointDigest, Epoch};

use crate::Request;
use crate::message::message;

/// A command of the head to a shard.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ShardCommand {
    /// Loads a part of the model; the first command. Progress follows, then `Loaded` or `Failed`.
    Load(Load),
    /// Joins the groups and takes plans; the second and last command. `Ready` or `Failed` follows.
    Join(Join),
}

/// The part of a model that a shard loads.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Load {
    /// The directory of the checkpoint, on the shard's machine; `None` is the embedded checkpoint.
    pub model: Option<String>,
    /// The data type in which weights are held.
    pub dtype: Dtype,
    /// The shard's share of the model.
    pub share: Share,
    /// The kinds of the shard's groups: those that are split over several ranks.
    pub groups: Vec<GroupKind>,
    /// The number of CPU threads.
    pub threads: u32,
}

/// The epoch and the groups that a shard joins.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Join {
    /// The epoch; plans of other epochs are refused.
    pub epoch: Epoch,
    /// The groups that the shard computes with, by the kinds of `Load`.
    pub groups: Vec<(GroupKind, Group)>,
    /// The number of blocks of the shard's KV cache.
    pub kv_blocks: u32,
    /// The number of tokens of each block.
    pub block_tokens: NonZeroU32,
    /// The maximum number of sequences with a slot.
    pub max_num_seqs: u32,
}

/// The data type in which weights and activations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Dtype {
    /// The data type of the checkpoint.
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

/// A group of ranks that exchange tensors.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Group {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The secret that only the members of the group have.
    pub secret: [u8; 32],
    /// The shard's rank in the group.
    pub rank: u32,
    /// The members of the group, in the order of their ranks.
    pub members: Vec<Member>,
}

/// The place where a rank exchanges tensors.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Member {
    /// The machine of the rank. Ranks of the same machine share memory.
    pub machine: String,
    /// The address, `address:port`, on which the rank listens for ranks of other machines.
    pub address: String,
}

/// A message of a shard to the head.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ShardEvent {
    /// The progress of loading.
    Progress {
        /// The number of bytes of weights read.
        bytes: u64,
        /// The number of bytes to read.
        of: u64,
    },
    /// The shard has loaded its part of the model.
    Loaded(Loaded),
    /// The shard takes plans.
    Ready,
    /// The command failed; the text says why, for a person.
    Failed(String),
}

/// The result of loading a shard's weights.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Loaded {
    /// The place where the shard meets the other ranks of each of its groups.
    pub members: Vec<(GroupKind, Member)>,
    /// The digest of the checkpoint that the weights are a part of.
    pub checkpoint: CheckpointDigest,
}

message!(ShardCommand, ShardCommand);
message!(ShardEvent, ShardEvent);

impl Request for ShardCommand {
    type Reply = ShardEvent;
}

impl fmt::Debug for Group {
    /// Formats the group without its secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, rank, members, .. } = self;
        let mut group = f.debug_struct("Group");
        group.field("name", name).field("rank", rank).field("members", members).finish()
    }
}
