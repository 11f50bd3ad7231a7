//! Stage: owns a range of layers, and the shards that hold them.

use std::sync::Arc;

use playhouse_types::Epoch;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::info;

use crate::rank::{Rank, RankStarter};
use crate::replica::ReplicaMsg;
use crate::shard::{Shard, ShardArgs};

pub(crate) struct Stage;

/// What a stage is started with.
pub(crate) struct StageArgs {
    pub(crate) epoch: Epoch,
    /// Its first rank.
    pub(crate) first: Rank,
    /// How many there are.
    pub(crate) tensor: usize,
    pub(crate) starter: RankStarter,
    pub(crate) replica: ActorRef<ReplicaMsg>,
}

/// A stage takes no messages: it starts its shards and falls with them.
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
        let StageArgs { epoch, first, tensor, starter, replica } = args;
        for tensor in 0..tensor {
            let (starter, replica) = (Arc::clone(&starter), replica.clone());
            let shard = ShardArgs { epoch, rank: Rank { tensor, ..first }, starter, replica };
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

    async fn post_stop(
        &self,
        me: ActorRef<StageMsg>,
        _: &mut Epoch,
    ) -> Result<(), ActorProcessingErr> {
        // Each waits until nothing of its rank runs any more.
        me.stop_children_and_wait(None, None).await;
        Ok(())
    }
}
