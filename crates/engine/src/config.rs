//! The configuration of an engine.

use playhouse_types::{BlockSize, Epoch};

/// The configuration of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Epoch of the plans that the engine executes.
    pub epoch: Epoch,
    /// Blocks of the KV cache.
    pub kv_blocks: usize,
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Number of slots for sequences.
    pub max_num_seqs: usize,
}
