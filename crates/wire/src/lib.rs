//! The messages between the processes of a cluster, as bytes.
//!
//! - **W-1** no sequence of bytes makes a decoder panic, or allocate more than a small multiple of the
//!   bytes it was fed.
//! - **W-2** an encoded message decodes to the same value, however the bytes were cut on the way.
//! - **W-3** the bytes of a message are fixed by [`PROTOCOL_VERSION`]: rkyv has no schema evolution,
//!   so a change of bytes is a new version, and peers of different versions part at the
//!   [preface](check_preface), before either decodes anything.
//! - **W-4** a frame longer than its [`Kind`] allows is refused from its header, and never sent.
//! - **W-5** a message is read as the type that its sender wrote: a frame has its kind, and another kind
//!   is refused before its bytes are read.
//!
//! There is one closed enum per direction and kind of stream. The side that opens a stream sends a
//! [`Request`] first; the other side sends its [`Request::Reply`]s. A message without an answer is a
//! [`Note`]. Not here: sockets, streams and time (see `link`).
#![forbid(unsafe_code)]

mod bulk;
mod frame;
mod generation;
mod hello;
mod join;
mod kind;
mod message;
mod node;
mod note;
mod peer;
mod shard;
mod step;

pub use bulk::BulkOpening;
pub use frame::{Frame, FrameDecoder, FrameError, HEADER_BYTES};
pub use generation::{GenerationEvent, GenerationRequest, NotTaken};
pub use hello::{
    Hello, HelloReply, PREFACE_BYTES, PROTOCOL_VERSION, PrefaceError, Refusal, check_preface,
    preface, preface_of,
};
pub use join::{
    IdentityBundle, JoinRefusal, JoinReply, JoinRequest, RenewRefusal, RenewReply, RenewRequest,
};
pub use kind::Kind;
pub use message::{DecodeError, EncodeError, Message, Note, Request};
pub use node::{
    Device, DeviceKind, HeadReply, HeadRequest, NodeReply, NodeRequest, NodeStats, Running, Spawn,
};
pub use note::{Exit, ExitStatus, HeadNote, PeerNote};
pub use peer::{BadName, NAME_BYTES_MAX, PeerId, Role};
pub use shard::{Dtype, Group, Join, Load, Loaded, Member, ShardCommand, ShardEvent};
pub use step::{StepCommand, StepEvent};
