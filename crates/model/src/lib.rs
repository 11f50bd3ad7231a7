//! Weights and forward pass of one decoder, for all model families.
//!
//! The forward pass branches on a [`playhouse_types::DecoderSpec`] and on nothing else (**A12**), and knows
//! no request (**A3**): its input is tokens, positions and block tables.
//!
//! The parts, in the order in which a model is built: [`Checkpoint`] finds files, [`Weights`] reads the
//! tensors that a [`Shard`] holds, [`Model`] runs them over a [`KvCache`] and chooses tokens.
//! `playhouse-layout` reads `config.json`; kernels and sampling are in `playhouse-ops`.
#![forbid(unsafe_code)]

mod checkpoint;
mod decoder;
mod groups;
mod kv;
mod rope;
mod shard;
mod weights;

pub use checkpoint::{Checkpoint, CheckpointError, SMALL_FILE_MAX};
pub use decoder::{Chunk, ForwardError, Hidden, Model};
pub use groups::Groups;
pub use kv::KvCache;
pub use shard::{Shard, ShardError};
pub use weights::{Dtype, Survey, Weights, WeightsError, checkpoint_digest, checkpoint_shape};
