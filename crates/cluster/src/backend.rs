//! Where a front door sends what it accepted: a replica, or a script in tests of the layers above.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use playhouse_types::{Emission, GenerateRequest, RequestId};
use ractor::{ActorRef, MessagingErr};
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::Place;
use crate::generation::Sink;
use crate::replica::ReplicaMsg;

/// Answers a request by sending emissions.
pub(crate) type Script = dyn Fn(GenerateRequest, UnboundedSender<Emission>) + Send + Sync;

#[derive(Clone)]
pub(crate) enum Backend {
    Replica(ActorRef<ReplicaMsg>),
    Script(Arc<Scripted>),
}

/// Holds the place of a request until its caller is done with it.
pub(crate) struct Scripted {
    script: Box<Script>,
    places: Mutex<HashMap<RequestId, Place>>,
}

// === impl Backend ===

impl Backend {
    pub(crate) fn scripted(script: Box<Script>) -> Self {
        Self::Script(Arc::new(Scripted { script, places: Mutex::default() }))
    }

    /// Hands over a message, or gives it back when the replica is gone.
    pub(crate) fn cast(&self, message: ReplicaMsg) -> Option<ReplicaMsg> {
        match self {
            Self::Replica(replica) => match replica.cast(message) {
                Err(MessagingErr::SendErr(message)) => Some(message),
                _ => None,
            },
            Self::Script(scripted) => {
                scripted.handle(message);
                None
            }
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replica(_) => "Replica",
            Self::Script(_) => "Script",
        })
    }
}

// === impl Scripted ===

impl Scripted {
    fn handle(&self, message: ReplicaMsg) {
        let held = || self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            ReplicaMsg::Admit(request, _, Sink { emissions, place, .. }) => {
                held().insert(request.id, place);
                (self.script)(request, emissions);
            }
            ReplicaMsg::Cancel(id) => drop(held().remove(&id)),
            _ => {}
        }
    }
}
