//! One generation: the front door to the process that hosts a replica, tokens back. Resetting the
//! stream cancels it.

use playhouse_types::{Emission, Epoch, GenerateRequest};

use crate::Request;
use crate::message::message;

/// The front door to a replica. The only message of its direction.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum GenerationRequest {
    /// Generate, on this replica.
    Generate {
        /// The replica.
        replica: u32,
        /// The incarnation the front door knows.
        epoch: Epoch,
        /// What to generate.
        request: GenerateRequest,
    },
}

/// A replica to the front door.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum GenerationEvent {
    /// A token, or the end. The last event has a finish reason.
    Emission(Emission),
    /// Not taken; the only event then.
    Refused(NotTaken),
}

/// Why a replica does not take a generation. The front door may try another.
#[derive(
    Clone, Debug, PartialEq, Eq, thiserror::Error, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub enum NotTaken {
    /// It has no room now.
    #[error("the replica has no room; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When it may have.
        retry_after_ms: u64,
    },
    /// It takes nothing new.
    #[error("the replica drains")]
    Draining,
    /// The process hosts no such replica of this epoch.
    #[error("no replica {replica} of {epoch} is here")]
    NotHere {
        /// As asked for.
        replica: u32,
        /// As asked for.
        epoch: Epoch,
    },
}

message!(GenerationRequest, GenerationRequest);
message!(GenerationEvent, GenerationEvent);

impl Request for GenerationRequest {
    type Reply = GenerationEvent;
}
