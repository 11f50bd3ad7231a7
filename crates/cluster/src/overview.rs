//! [`Overview`]: the handle by which an operator sees and changes a cluster.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ractor::ActorRef;
use tokio::sync::{oneshot, watch};

use crate::control::{ControlPlane, NoToken, NotRevoked};
use crate::front_door::FrontDoor;
use crate::ledger::{Drained, Ledger};
use crate::mail::DeploymentMsg;
use crate::operation::{Answer, Change, Desired, Operation, OperationId, Refused};
use crate::status::ClusterStatus;

/// The operators' handle to a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Overview {
    front_door: FrontDoor,
    control: Option<ControlPlane>,
    ledger: Arc<Ledger>,
    deployment: ActorRef<DeploymentMsg>,
}

/// The deployment that is wanted, and the operation that leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentStatus {
    /// The deployment that is wanted.
    pub desired: Desired,
    /// The nodes and replicas that shall have no ranks.
    pub drained: Drained,
    /// The operation that is under way.
    pub running: Option<OperationId>,
    /// Whether these wishes survive a restart of the head.
    pub durable: bool,
}

// === impl DeploymentStatus ===

impl From<&Ledger> for DeploymentStatus {
    fn from(ledger: &Ledger) -> Self {
        Self {
            desired: ledger.desired().unwrap_or_default(),
            drained: ledger.drained(),
            running: ledger.running(),
            durable: ledger.is_durable(),
        }
    }
}

// === impl Overview ===

impl Overview {
    pub(crate) fn new(
        front_door: FrontDoor,
        control: Option<ControlPlane>,
        ledger: Arc<Ledger>,
        deployment: ActorRef<DeploymentMsg>,
    ) -> Self {
        Self { front_door, control, ledger, deployment }
    }

    /// Returns the status of the cluster as it is now.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        ClusterStatus {
            nodes: self.control.as_ref().map(ControlPlane::statuses).unwrap_or_default(),
            replicas: self.front_door.replicas(),
            in_flight: self.front_door.in_flight(),
            draining: self.front_door.is_draining(),
        }
    }

    /// Returns the expiry of the certificate that the head shows to nodes and ranks, and the earliest
    /// expiry of a connected node's certificate.
    #[must_use]
    pub fn certificate_ends(&self) -> [Option<SystemTime>; 2] {
        self.control.as_ref().map(ControlPlane::certificate_ends).unwrap_or_default()
    }

    /// Returns the deployment that is wanted, and the operation that leads there.
    #[must_use]
    pub fn deployment(&self) -> DeploymentStatus {
        DeploymentStatus::from(&*self.ledger)
    }

    /// Begins a change, or with `dry_run` only works it out. A repeated call with the same `key` returns
    /// the operation of the first call.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn change(
        &self,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> Result<Answer, Refused> {
        if self.front_door.is_draining() {
            return Err(Refused::Draining);
        }
        let (answer, answered) = oneshot::channel();
        let message = DeploymentMsg::Change { change, key, dry_run, answer };
        self.deployment.cast(message).map_err(|_| Refused::Draining)?;
        answered.await.unwrap_or(Err(Refused::Draining))
    }

    /// Returns every operation that is known, the oldest first.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.ledger.operations()
    }

    /// Returns an operation as it is now, and its changes.
    #[must_use]
    pub fn operation(&self, id: OperationId) -> Option<watch::Receiver<Operation>> {
        self.ledger.watch(id)
    }

    /// Asks for the end of an operation; what it did is undone as far as possible.
    ///
    /// # Errors
    /// [`Refused::NoOperation`] or [`Refused::Ended`].
    pub fn abort(&self, id: OperationId) -> Result<Operation, Refused> {
        self.ledger.abort(id)
    }

    /// Creates a token with which one node can join within `ttl`, as `playhouse node --token` takes it.
    ///
    /// # Errors
    /// See [`NoToken`].
    pub fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        let control = self.control.as_ref().ok_or(NoToken::NotListening)?;
        control.create_token(ttl).map(|token| token.to_string())
    }

    /// Cuts a node off at once and refuses its present certificate for good. Returns whether the node
    /// was connected. The node's replicas move; a new token lets it in again. Writes to a disk.
    ///
    /// # Errors
    /// See [`NotRevoked`].
    pub fn revoke_node(&self, node: &str) -> Result<bool, NotRevoked> {
        self.control.as_ref().ok_or(NotRevoked::NotListening)?.revoke(node)
    }
}
