//! Identifiers: newtypes, so that a block cannot be passed for a slot.

use std::fmt;
use std::num::NonZeroU32;

/// An index into the model's vocabulary.
pub type TokenId = u32;

/// Tokens per block of the KV cache, the same for every sequence and rank of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockSize(NonZeroU32);

// === impl BlockSize ===

impl BlockSize {
    /// The block size of the CPU kernels: one vector of 16 tokens.
    pub const CPU: Self = Self(NonZeroU32::new(16).expect("16 is not 0"));

    /// Returns the size of blocks that hold `tokens` tokens.
    #[must_use]
    pub const fn new(tokens: NonZeroU32) -> Self {
        Self(tokens)
    }

    /// Returns the tokens of a block.
    #[must_use]
    pub const fn tokens(self) -> usize {
        self.0.get() as usize
    }

    /// Returns the tokens of a block as a non-zero number, the form that is sent and shown.
    #[must_use]
    pub const fn get(self) -> NonZeroU32 {
        self.0
    }

    /// Returns how many blocks `tokens` tokens occupy, a partly filled last block included.
    #[must_use]
    pub const fn blocks_for(self, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens())
    }

    /// Returns how many blocks `tokens` tokens fill completely.
    #[must_use]
    pub const fn full_blocks(self, tokens: usize) -> usize {
        tokens / self.tokens()
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One generation: a single prompt and a single continuation. Unique within a front door.
    RequestId(u64), "request-"
);
id!(
    /// One copy of the model, counted from 0.
    ReplicaId(u32), "replica-"
);
id!(
    /// The incarnation of a replica. Messages that carry an older epoch are dropped.
    Epoch(u64), "epoch-"
);
id!(
    /// A step of one replica, counted from 0 in each epoch.
    StepId(u64), "step-"
);
id!(
    /// An index into the engine's batch state, below `max_num_seqs`. A released slot is used again.
    Slot(u32), "slot-"
);
id!(
    /// A KV block: one index that is the same in the caches of every layer. Holds [`BlockSize`] tokens.
    BlockId(u32), "block-"
);
