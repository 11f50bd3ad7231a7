//! What the API lets an operator do. Tests put a script in the place of a cluster.

use std::time::Duration;

use playhouse_cluster::{ClusterStatus, NoToken, Overview};

/// The operations behind the API. None of them blocks.
pub trait Operations: Clone + Send + Sync + 'static {
    /// As [`Overview::status`].
    fn status(&self) -> ClusterStatus;

    /// As [`Overview::create_token`].
    ///
    /// # Errors
    /// See [`NoToken`].
    fn create_token(&self, ttl: Duration) -> Result<String, NoToken>;
}

// === impl Operations ===

impl Operations for Overview {
    fn status(&self) -> ClusterStatus {
        self.status()
    }

    fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        self.create_token(ttl)
    }
}
