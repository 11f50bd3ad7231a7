//! Shard: the proxy of one rank. Knows nothing of plans and tokens.

use std::pin::Pin;
use std::sync::Arc;

use playhouse_types::Epoch;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::rank::{Loss, Rank, RankEvent, RankStarter, StartedRank};
use crate::replica::ReplicaMsg;

pub(crate) struct Shard;

/// What a shard is started with.
pub(crate) struct ShardArgs {
    pub(crate) epoch: Epoch,
    pub(crate) rank: Rank,
    pub(crate) starter: RankStarter,
    pub(crate) replica: ActorRef<ReplicaMsg>,
}

pub(crate) enum ShardMsg {
    /// The rank ended by itself.
    Lost(Loss),
}

// === impl Shard ===

impl Actor for Shard {
    type Msg = ShardMsg;
    /// Ends when nothing of the rank runs any more.
    type State = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;
    type Arguments = ShardArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ShardMsg>,
        args: ShardArgs,
    ) -> Result<Self::State, ActorProcessingErr> {
        let ShardArgs { epoch, rank, starter, replica } = args;
        let reports = replica.clone();
        let sink = Arc::new(move |event| {
            if let RankEvent::Lost(loss) = &event {
                drop(me.cast(ShardMsg::Lost(loss.clone())));
            }
            // C-3: an outcome goes to the scheduler's mailbox, not through this actor.
            drop(reports.cast(ReplicaMsg::Reported { epoch, rank, event }));
        });
        let StartedRank { port, ended } = starter(epoch, rank, sink)?;
        replica.cast(ReplicaMsg::Started { epoch, rank, port })?;
        Ok(ended)
    }

    async fn handle(
        &self,
        _: ActorRef<ShardMsg>,
        message: ShardMsg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let ShardMsg::Lost(loss) = message;
        Err(loss.into())
    }

    async fn post_stop(
        &self,
        _: ActorRef<ShardMsg>,
        ended: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // The replica has dropped the port, so the rank ends with its current step.
        ended.await;
        Ok(())
    }
}
