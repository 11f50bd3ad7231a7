//! What a replica tells about its prefix cache.

/// A change of a prefix cache.
///
/// A block is named by the first 64 bits of its hash, which is chained over everything before it.
/// That is enough to choose a replica by: the replica itself compares whole hashes.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum PrefixEvent {
    /// These blocks can be found now.
    Stored(Vec<u64>),
    /// These can no longer.
    Removed(Vec<u64>),
    /// Forget all; what is there follows as `Stored`.
    Reset,
}

// === impl PrefixEvent ===

impl PrefixEvent {
    /// Most blocks in one event: half a mebibyte of names.
    pub const BLOCKS_MAX: usize = 1 << 16;
}
