//! What a replica reports about its prefix cache.

/// A change of a prefix cache.
///
/// A block is named by the first 64 bits of its hash, which is chained over everything before the block. 64
/// bits are enough to choose a replica by: the replica itself compares whole hashes.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum PrefixEvent {
    /// These blocks are in the cache now.
    Stored(Vec<u64>),
    /// These blocks are no longer in the cache.
    Removed(Vec<u64>),
    /// Every block named before is forgotten; the blocks that are in the cache follow as `Stored`.
    Reset,
}

// === impl PrefixEvent ===

impl PrefixEvent {
    /// Most blocks in one event: half a mebibyte of names.
    pub const BLOCKS_MAX: usize = 1 << 16;
}
