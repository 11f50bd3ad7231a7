//! Large data that is not made of messages.

use crate::message::message;

/// Opens a stream of raw bytes, which follow this frame. The reader ends its own half, without a
/// message, when it has them all.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct BulkOpening {
    /// What the bytes are; agreed on before, in a request or a plan.
    pub tag: u64,
    /// How many follow.
    pub bytes: u64,
}

message!(BulkOpening, Bulk);
