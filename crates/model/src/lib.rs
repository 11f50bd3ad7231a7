//! One decoder, all families: configuration, weights, forward pass, sampling.
//!
//! The forward pass branches on a [`playhouse_types::DecoderSpec`] and on nothing else (**A12**),
//! and knows no request (**A3**): it sees tokens, positions and block tables.
//!
//! The parts, in the order a model comes to life: [`Checkpoint`] finds files, [`ModelConfig`]
//! understands `config.json`, [`Weights`] reads tensors, [`Model`] runs them over a [`KvCache`],
//! [`sampling`] chooses tokens.
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod decoder;
mod groups;
mod kv;
mod rope;
pub mod sampling;
mod shard;
mod weights;

pub use checkpoint::{Checkpoint, CheckpointError, SMALL_FILE_MAX};
pub use config::{ConfigError, GenerationDefaults, ModelConfig, limits};
pub use decoder::{Chunk, ForwardError, Hidden, Model};
pub use groups::Groups;
pub use kv::KvCache;
pub use shard::{Shard, ShardError};
pub use weights::{Dtype, Survey, Weights, WeightsError};
