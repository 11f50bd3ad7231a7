//! KV block pool and prefix cache: pure bookkeeping, no tensors.
//!
//! The KV cache of a replica is an array of blocks of [`BlockSize`](playhouse_types::BlockSize) tokens.
//! [`BlockPool`] records which sequences hold which block, and which full blocks can be shared because
//! they hold the tokens that another sequence is about to compute. A full block is named by a
//! [`BlockHash`] chained over everything before it, so equal names mean equal prefixes.
//!
//! - **KV-1** a block is *held* (by one sequence or, as a shared prefix, by several), *cached* (held
//!   by none, findable by its hash) or *free* (held by none, content worthless); never two of them.
//! - **KV-2** taking a block uses free blocks first, then evicts cached ones, least recently held
//!   first and the tail of a sequence before its head. A held block is never evicted.
//! - **KV-3** when every holder has released its blocks, no block is held: the pool is free and
//!   cached blocks only.
//! - **KV-4** a hit is exact: same salt, same tokens from position 0 on. It stops at the first
//!   missing block and always leaves at least one token to compute.
//! - **KV-5** two blocks may hold the same tokens (two sequences computed them at the same time).
//!   The index keeps the block published first; the other becomes free when released.
//! - **KV-6** taking, holding, publishing and releasing cost O(1) per block and allocate nothing but
//!   the list they return; the same calls always give the same blocks.
//! - **KV-7** a reader that applies the events taken from a pool, in order and from a reset on, has the
//!   names in the pool's index and no others.
//!
//! The design is that of vLLM V1 (`v1/core/block_pool.py`, `v1/core/kv_cache_utils.py`).
//!
//! Not here: which sequence gets blocks, and which loses them when there are too few (see `scheduler`);
//! where the bytes of a block are (see `engine`).
#![forbid(unsafe_code)]

mod free_list;
mod hash;
mod index;
mod pool;

pub use hash::{BlockHash, HashChain};
pub use pool::{BlockPool, PoolStats, Prefix};
