//! [`StartError`]: the reason why a cluster does not start.

use playhouse_types::ReplicaId;
use ractor::SpawnErr;

/// The reason why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An actor refused to start; the text has the cause, such as a thread that cannot be made.
    #[error("cannot start the deployment: {0}")]
    Spawn(#[from] SpawnErr),
    /// The model cannot be divided by the wanted layout, a replica cannot be started, or the wanted
    /// deployment cannot be written down.
    #[error("{0}")]
    Refused(String),
    /// A replica failed before it served.
    #[error("{replica} failed while starting: {reason}")]
    Replica {
        /// The id of the replica.
        replica: ReplicaId,
        /// The reason why its last rank died.
        reason: String,
    },
}
