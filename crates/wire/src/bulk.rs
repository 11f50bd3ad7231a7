//! Large data that is not sent as messages.

use crate::message::message;

/// The opening of a stream of raw bytes, which follow this frame. The reader ends its own half, without a
/// message, when it has all bytes.
#[derive(Clone, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct BulkOpening {
    /// The meaning of the bytes, agreed on before in a request or a plan.
    pub tag: u64,
    /// The number of bytes that follow.
    pub bytes: u64,
}

message!(BulkOpening, Bulk);
