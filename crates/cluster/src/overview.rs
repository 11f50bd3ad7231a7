//! What an operator sees of a cluster and may ask of it.

use std::time::Duration;

use crate::control::ControlPlane;
use crate::front_door::FrontDoor;
use crate::status::ClusterStatus;

/// A handle for operators. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Overview {
    front_door: FrontDoor,
    control: Option<ControlPlane>,
}

/// Why there is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// The head was started for this machine alone.
    #[error("this head admits no nodes: start it with --cluster-listen")]
    NotListening,
    /// The system failed; the text says how.
    #[error("cannot make a token: {0}")]
    Failed(String),
}

// === impl Overview ===

impl Overview {
    pub(crate) fn new(front_door: FrontDoor, control: Option<ControlPlane>) -> Self {
        Self { front_door, control }
    }

    /// The cluster as it is now.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        ClusterStatus {
            nodes: self.control.as_ref().map(ControlPlane::statuses).unwrap_or_default(),
            replicas: self.front_door.replicas(),
            in_flight: self.front_door.in_flight(),
            draining: self.front_door.is_draining(),
        }
    }

    /// A token that lets one node in within `ttl`, as `playhouse node --token` takes it.
    ///
    /// # Errors
    /// See [`NoToken`].
    pub fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        let control = self.control.as_ref().ok_or(NoToken::NotListening)?;
        control.create_token(ttl)
    }
}
