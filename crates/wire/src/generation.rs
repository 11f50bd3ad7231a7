//! The stream of one generation: a request from the front door to the process of a replica, and tokens
//! back. Resetting the stream cancels the generation.

use playhouse_types::{Emission, Epoch, GenerateRequest};

use crate::Request;
use crate::message::message;

/// A message of the front door to a replica; the only one of its direction.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum GenerationRequest {
    /// Generates on this replica.
    Generate {
        /// The replica.
        replica: u32,
        /// The incarnation of the replica that the front door knows.
        epoch: Epoch,
        /// The request to generate.
        request: GenerateRequest,
    },
}

/// A message of a replica to the front door.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum GenerationEvent {
    /// A token, or the end. The last emission has a finish reason.
    Emission(Emission),
    /// The generation is not taken; the only event then.
    Refused(NotTaken),
}

/// The reason why a replica does not take a generation. The front door may try another replica.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum NotTaken {
    /// The replica has no room now.
    #[error("the replica has no room; try again in {retry_after_ms} ms")]
    Overloaded {
        /// The time after which the replica may have room.
        retry_after_ms: u64,
    },
    /// The replica takes no new generations.
    #[error("the replica drains")]
    Draining,
    /// The process hosts no such replica of this epoch.
    #[error("no replica {replica} of {epoch} is here")]
    NotHere {
        /// The requested replica.
        replica: u32,
        /// The requested epoch.
        epoch: Epoch,
    },
}

message!(GenerationRequest, GenerationRequest);
message!(GenerationEvent, GenerationEvent);

impl Request for GenerationRequest {
    type Reply = GenerationEvent;
}
