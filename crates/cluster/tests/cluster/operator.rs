//! An operator of the cluster: the changes it asks for, and how they end.

use std::time::Duration;

use playhouse_cluster::{Answer, Change, Cluster, Operation, Phase, Refused, ReplicaState};
use playhouse_types::ReplicaId;
use tokio::time::timeout;

use crate::caller::LONG;

/// Begins a change.
pub(crate) async fn begin(cluster: &Cluster, change: Change) -> Result<Operation, Refused> {
    match cluster.overview().change(change, None, false).await? {
        Answer::Accepted(operation) => Ok(*operation),
        Answer::Planned(_) => panic!("it was not a dry run"),
    }
}

/// Waits for the end of an operation.
pub(crate) async fn ended(cluster: &Cluster, operation: &Operation) -> Operation {
    let mut watch = cluster.overview().operation(operation.id).expect("it is known");
    let end = timeout(LONG, watch.wait_for(|operation| operation.phase.is_end())).await;
    end.expect("operations end").expect("the ledger is there").clone()
}

/// Makes a change that succeeds.
pub(crate) async fn done(cluster: &Cluster, change: Change) {
    let what = format!("{change:?}");
    let operation = begin(cluster, change).await.expect("accepted");
    let end = ended(cluster, &operation).await;
    assert_eq!(end.phase, Phase::Done, "{what}: {end:?}");
}

/// Returns a drain of a replica, even if it is the last that serves.
pub(crate) fn drain(replica: u32, deadline: Duration) -> Change {
    Change::DrainReplica { replica: ReplicaId(replica), deadline, force: true }
}

/// Returns a change of the number of replicas.
pub(crate) fn scale(replicas: u32) -> Change {
    Change::Deployment { replicas: Some(replicas), layout: None, force: true }
}

/// Returns the state of a replica, given its place in the list of replicas.
pub(crate) fn state(cluster: &Cluster, replica: usize) -> ReplicaState {
    cluster.front_door().replicas()[replica].state.clone()
}
