//! Where a front door sends what it accepted: a replica, or a script in tests of the layers above.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use playhouse_types::{Emission, GenerateRequest, RequestId};
use ractor::ActorRef;
use tokio::sync::mpsc::UnboundedSender;

use crate::generation::{Permits, Sink};
use crate::replica::ReplicaMsg;

/// Answers a request by sending emissions.
pub(crate) type Script = dyn Fn(GenerateRequest, UnboundedSender<Emission>) + Send + Sync;

#[derive(Clone)]
pub(crate) enum Backend {
    Replica(ActorRef<ReplicaMsg>),
    Script(Arc<Scripted>),
}

/// Holds the permits of a request until its caller is done with it.
pub(crate) struct Scripted {
    script: Box<Script>,
    permits: Mutex<HashMap<RequestId, Permits>>,
}

// === impl Backend ===

impl Backend {
    pub(crate) fn scripted(script: Box<Script>) -> Self {
        Self::Script(Arc::new(Scripted { script, permits: Mutex::default() }))
    }

    /// Hands over a message. A replica that is gone drops it: a sink in it says so to its caller,
    /// and there is nothing left to cancel.
    pub(crate) fn cast(&self, message: ReplicaMsg) {
        match self {
            Self::Replica(replica) => drop(replica.cast(message)),
            Self::Script(scripted) => scripted.handle(message),
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
        let held = || self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            ReplicaMsg::Admit(request, Sink { emissions, permits, .. }) => {
                held().insert(request.id, permits);
                (self.script)(request, emissions);
            }
            ReplicaMsg::Cancel(id) => drop(held().remove(&id)),
            _ => {}
        }
    }
}
