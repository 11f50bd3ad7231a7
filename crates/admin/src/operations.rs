//! The calls that the API lets an operator make. Tests implement them by a script instead of a cluster.

use std::future::Future;
use std::time::Duration;

use playhouse_cluster::{
    Answer, Change, ClusterStatus, DeploymentStatus, NoToken, NotRevoked, Operation, OperationId,
    Overview, Refused,
};
use tokio::sync::watch;

/// The calls behind the API. None of them blocks, except that [`Operations::revoke_node`] waits for a
/// disk.
pub trait Operations: Clone + Send + Sync + 'static {
    /// Returns the same as [`Overview::status`].
    fn status(&self) -> ClusterStatus;

    /// Makes a join token, like [`Overview::create_token`].
    ///
    /// # Errors
    /// See [`NoToken`].
    fn create_token(&self, ttl: Duration) -> Result<String, NoToken>;

    /// Revokes a node's certificate, like [`Overview::revoke_node`].
    ///
    /// # Errors
    /// See [`NotRevoked`].
    fn revoke_node(&self, node: &str) -> Result<bool, NotRevoked>;

    /// Returns the same as [`Overview::deployment`].
    fn deployment(&self) -> impl Future<Output = DeploymentStatus> + Send;

    /// Begins a change, like [`Overview::change`].
    ///
    /// # Errors
    /// See [`Refused`].
    fn change(
        &self,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> impl Future<Output = Result<Answer, Refused>> + Send;

    /// Returns the same as [`Overview::operations`].
    fn operations(&self) -> impl Future<Output = Vec<Operation>> + Send;

    /// Returns the same as [`Overview::operation`].
    fn operation(
        &self,
        id: OperationId,
    ) -> impl Future<Output = Option<watch::Receiver<Operation>>> + Send;

    /// Aborts an operation, like [`Overview::abort`].
    ///
    /// # Errors
    /// See [`Refused`].
    fn abort(&self, id: OperationId) -> impl Future<Output = Result<Operation, Refused>> + Send;
}

// === impl Operations ===

impl Operations for Overview {
    fn status(&self) -> ClusterStatus {
        self.status()
    }

    fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        self.create_token(ttl)
    }

    fn revoke_node(&self, node: &str) -> Result<bool, NotRevoked> {
        self.revoke_node(node)
    }

    async fn deployment(&self) -> DeploymentStatus {
        self.deployment()
    }

    async fn change(
        &self,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> Result<Answer, Refused> {
        self.change(change, key, dry_run).await
    }

    async fn operations(&self) -> Vec<Operation> {
        self.operations()
    }

    async fn operation(&self, id: OperationId) -> Option<watch::Receiver<Operation>> {
        self.operation(id)
    }

    async fn abort(&self, id: OperationId) -> Result<Operation, Refused> {
        self.abort(id)
    }
}
