//! Stage: the owner of a range of layers, and the shards that hold them.

use std::ops::Range;
use std::sync::Arc;

use playhouse_layout::RankId;
use playhouse_types::{Epoch, ReplicaId};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::info;

use super::shard::{Shard, ShardArgs};
use crate::live_ranks::LiveRanks;
use crate::mail::ReplicaMsg;
use crate::rank::RankStarter;

pub(crate) struct Stage;

/// The arguments with which a stage is started.
pub(crate) struct StageArgs {
    pub(crate) epoch: Epoch,
    pub(crate) id: ReplicaId,
    /// The indices of its ranks in the replica.
    pub(crate) indices: Range<u32>,
    pub(crate) starter: RankStarter,
    pub(crate) ranks: Arc<LiveRanks>,
    pub(crate) replica: ActorRef<ReplicaMsg>,
}

/// The messages of a stage: none, because a stage only starts its shards and falls with them.
pub(crate) enum StageMsg {}

// === impl Stage ===

impl Actor for Stage {
    type Msg = StageMsg;
    type State = Epoch;
    type Arguments = StageArgs;

    async fn pre_start(
        &self,
        me: ActorRef<StageMsg>,
        args: StageArgs,
    ) -> Result<Epoch, ActorProcessingErr> {
        let StageArgs { epoch, id, indices, starter, ranks, replica } = args;
        for index in indices {
            let (starter, ranks) = (Arc::clone(&starter), Arc::clone(&ranks));
            let (rank, replica) = (RankId { replica: id, index }, replica.clone());
            let shard = ShardArgs { epoch, rank, starter, ranks, replica };
            Actor::spawn_linked(None, Shard, shard, me.get_cell()).await?;
        }
        Ok(epoch)
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<StageMsg>,
        event: SupervisionEvent,
        epoch: &mut Epoch,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, why) => {
                info!(%epoch, reason = %why, "shard failed");
                Err(why)
            }
            SupervisionEvent::ActorTerminated(..) => {
                me.stop(None);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
