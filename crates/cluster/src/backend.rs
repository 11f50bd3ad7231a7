//! Where a front door sends what it accepted: a replica, or a script in tests of the layers above.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use playhouse_types::{Emission, GenerateRequest, RequestId};
use ractor::ActorRef;
use tokio::sync::mpsc::UnboundedSender;

use crate::generation::Sink;
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
    sinks: Mutex<HashMap<RequestId, Sink>>,
}

// === impl Backend ===

impl Backend {
    pub(crate) fn scripted(script: Box<Script>) -> Self {
        Self::Script(Arc::new(Scripted { script, sinks: Mutex::default() }))
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
        let sinks = || self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            ReplicaMsg::Admit(request, sink) => {
                let emissions = sink.emissions.clone();
                sinks().insert(request.id, sink);
                (self.script)(request, emissions);
            }
            ReplicaMsg::Cancel(id) => drop(sinks().remove(&id)),
            _ => {}
        }
    }
}
