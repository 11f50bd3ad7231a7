//! Operators that change a cluster while it serves, and repair it.

use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{
    Answer, Change, OperationId, Overview, Phase, ReplicaState, ReplicaStatus,
};
use playhouse_types::ReplicaId;
use tokio::time::{sleep, timeout};

use crate::engines::scripted::layout;
use crate::life::fate::{Fate, LONG};

/// Draws a change of replicas.
pub(crate) fn draw_change(fate: &Fate) -> Change {
    let replica = ReplicaId(fate.below(4) as u32);
    let deadline = fate.millis(0..200);
    match fate.below(6) {
        0 | 1 => Change::Deployment {
            replicas: Some(1 + fate.below(3) as u32),
            layout: None,
            force: false,
        },
        2 => {
            let other = layout(1 + fate.below(2) as u32, 1 + fate.below(2) as u32);
            Change::Deployment { replicas: None, layout: Some(other), force: false }
        }
        3 => Change::DrainReplica { replica, deadline, force: fate.below(2) == 0 },
        4 => Change::RestartReplica { replica },
        _ => Change::RemoveReplica { replica, deadline, force: false },
    }
}

/// Requests changes at most `pause` milliseconds apart. Some are aborted, and some of those are requested again;
/// changes may be refused.
pub(crate) async fn operators(
    fate: Arc<Fate>,
    overview: Overview,
    draw: impl Fn(&Fate) -> Change,
    pause: u64,
) {
    for _ in 0..6 {
        sleep(fate.millis(0..pause)).await;
        let change = draw(&fate);
        while fate.aborts(&overview, &change, pause).await && fate.below(2) == 0 {}
    }
}

impl Fate {
    /// Carries a change out or aborts it on the way. Returns whether it was aborted.
    async fn aborts(&self, overview: &Overview, change: &Change, pause: u64) -> bool {
        let answer = overview.change(change.clone(), None, false).await;
        let Ok(answer) = answer else { return false };
        let Answer::Accepted(operation) = answer else { panic!("it was not a dry run") };
        let aborts = self.below(4) == 0;
        if aborts {
            sleep(self.millis(0..pause / 2)).await;
            drop(overview.abort(operation.id));
        }
        ended(overview, operation.id).await;
        aborts
    }
}

pub(crate) async fn ended(overview: &Overview, id: OperationId) -> Phase {
    let mut watch = overview.operation(id).expect("it is known");
    let end = timeout(LONG, watch.wait_for(|operation| operation.phase.is_end())).await;
    end.expect("operations end").expect("the ledger is there").phase.clone()
}

/// Restarts every replica that was drained or has failed.
pub(crate) async fn repair(overview: &Overview) {
    for replica in overview.status().replicas {
        let rests = matches!(replica.state, ReplicaState::Drained | ReplicaState::Failed { .. });
        if rests {
            let change = Change::RestartReplica { replica: replica.id };
            let Ok(Answer::Accepted(operation)) = overview.change(change, None, false).await else {
                panic!("nothing else is under way")
            };
            let end = ended(overview, operation.id).await;
            assert_eq!(end, Phase::Done, "{} comes back", replica.id);
        }
    }
}

/// Waits until no replica holds a request or a block, which may be a step after the last client has left.
pub(crate) async fn idle(overview: &Overview) {
    let holds =
        |replica: &ReplicaStatus| replica.running + replica.waiting + replica.kv_blocks_held > 0;
    while overview.status().replicas.iter().any(holds) {
        sleep(Duration::from_millis(1)).await;
    }
}
