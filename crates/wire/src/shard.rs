//! The stream between the head and one shard, open as long as the shard lives.

use playhouse_types::Epoch;

use crate::Request;
use crate::message::message;

/// The head to a shard.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum ShardCommand {
    /// Load the model and join the groups; the first command. Progress follows, then `Ready` or
    /// `Failed`.
    Prepare(Prepare),
    /// Finish the steps that were submitted, then exit.
    Stop,
}

/// Everything a shard is to be.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Prepare {
    /// Plans of other epochs are refused.
    pub epoch: Epoch,
    /// Directory of the checkpoint, on the shard's machine; `None` is the embedded one.
    pub model: Option<String>,
    /// In which type weights are held.
    pub dtype: Dtype,
    /// First layer it holds.
    pub first_layer: u32,
    /// Behind the last layer it holds.
    pub end_layer: u32,
    /// Where it stands.
    pub rank: Rank,
    /// Groups it joins, as `collectives` spells them.
    pub groups: Vec<Group>,
    /// Blocks of its KV cache; `None` lets it measure and report what fits.
    pub kv_blocks: Option<u32>,
    /// CPU threads.
    pub threads: u32,
    /// What a step may hold.
    pub limits: StepLimits,
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

/// Coordinates of a rank: `at` in each dimension, below `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Rank {
    /// Among all ranks of the cluster.
    pub global: u32,
    /// Data parallel.
    pub replica: Place,
    /// Pipeline parallel.
    pub stage: Place,
    /// Attention data parallel, within the stage.
    pub attention_data: Place,
    /// Context parallel, within the stage.
    pub context: Place,
    /// Tensor parallel, within the stage.
    pub tensor: Place,
    /// Expert parallel.
    pub expert: Place,
}

/// A place in one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Place {
    /// Counted from 0.
    pub at: u32,
    /// Size of the dimension; 1 when it is not split.
    pub of: u32,
}

/// A group of ranks.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Group {
    /// What it is for, such as `tensor`.
    pub name: String,
    /// This shard's rank in it.
    pub rank: u32,
    /// How to join it; opaque here.
    pub spec: Vec<u8>,
}

/// What a step may hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct StepLimits {
    /// Sequences that have a seat.
    pub max_num_seqs: u32,
    /// Tokens fed.
    pub max_num_batched_tokens: u32,
    /// Tokens of one sequence.
    pub max_model_len: u32,
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
    /// It takes plans.
    Ready(Ready),
    /// It does not, and will exit; the text says why, for a person.
    Failed(String),
}

/// A shard that takes plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Ready {
    /// Blocks of the KV cache.
    pub kv_blocks: u32,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
    /// Bytes of the weights it holds.
    pub weight_bytes: u64,
    /// Milliseconds to read the weights.
    pub load_ms: u64,
    /// Milliseconds to join the groups.
    pub join_ms: u64,
}

message!(ShardCommand, ShardCommand);
message!(ShardEvent, ShardEvent);

impl Request for ShardCommand {
    type Reply = ShardEvent;
}
