//! Identifiers. Newtypes, so that a block cannot be passed for a slot.

use std::fmt;

/// An index into the model's vocabulary.
pub type TokenId = u32;

/// Tokens per KV block, of every sequence and on every rank.
pub const BLOCK_TOKENS: usize = 16;

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
    /// The incarnation of a replica. Whatever carries an older epoch is dropped.
    Epoch(u64), "epoch-"
);
id!(
    /// A step of one replica, counted from 0 in each epoch.
    StepId(u64), "step-"
);
id!(
    /// A seat in the engine's batch state. Below `max_num_seqs`; reused after its release.
    Slot(u32), "slot-"
);
id!(
    /// A KV block: the same index in the caches of every layer. Holds [`BLOCK_TOKENS`] tokens.
    BlockId(u32), "block-"
);
