//! What the API lets an operator do. Tests put a script in the place of a cluster.

use std::future::Future;
use std::time::Duration;

use playhouse_cluster::{
    Answer, Change, ClusterStatus, DeploymentStatus, NoToken, NotRevoked, Operation, OperationId,
    Overview, Refused,
};
use tokio::sync::watch;

/// The operations behind the API. None of them blocks.
pub trait Operations: Clone + Send + Sync + 'static {
    /// As [`Overview::status`].
    fn status(&self) -> ClusterStatus;

    /// As [`Overview::create_token`].
    ///
    /// # Errors
    /// See [`NoToken`].
    fn create_token(&self, ttl: Duration) -> Result<String, NoToken>;

    /// As [`Overview::revoke_node`].
    ///
    /// # Errors
    /// See [`NotRevoked`].
    fn revoke_node(&self, node: &str) -> Result<bool, NotRevoked>;

    /// As [`Overview::deployment`].
    fn deployment(&self) -> impl Future<Output = DeploymentStatus> + Send;

    /// As [`Overview::change`].
    ///
    /// # Errors
    /// See [`Refused`].
    fn change(
        &self,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> impl Future<Output = Result<Answer, Refused>> + Send;

    /// As [`Overview::operations`].
    fn operations(&self) -> impl Future<Output = Vec<Operation>> + Send;

    /// As [`Overview::operation`].
    fn operation(
        &self,
        id: OperationId,
    ) -> impl Future<Output = Option<watch::Receiver<Operation>>> + Send;

    /// As [`Overview::abort`].
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
