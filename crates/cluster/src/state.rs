//! What a replica is doing, for readiness and for people.

/// The life of a replica, published on every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// Its first engine has not started yet.
    Starting,
    /// It takes work.
    Serving,
    /// Its engine died; the next one starts after a backoff. Requests wait.
    Restarting {
        /// Why the engine died.
        reason: String,
    },
    /// It died too often and will not be restarted.
    Failed {
        /// Why the last engine died.
        reason: String,
    },
    /// It was asked to stop.
    Stopped,
}
