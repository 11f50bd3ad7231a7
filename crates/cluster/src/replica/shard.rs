//! Shard: the proxy of one rank. A shard knows nothing of plans and tokens.

use std::sync::Arc;

use playhouse_layout::RankId;
use playhouse_types::Epoch;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::live_ranks::LiveRanks;
use crate::mail::{PortSlot, ReplicaMsg};
use crate::rank::{Loss, RankEvent, RankStarter};

pub(crate) struct Shard;

/// The arguments with which a shard is started.
pub(crate) struct ShardArgs {
    pub(crate) epoch: Epoch,
    pub(crate) rank: RankId,
    pub(crate) starter: RankStarter,
    pub(crate) ranks: Arc<LiveRanks>,
    pub(crate) replica: ActorRef<ReplicaMsg>,
}

pub(crate) enum ShardMsg {
    /// The rank ended by itself.
    Lost(Loss),
}

// === impl Shard ===

impl Actor for Shard {
    type Msg = ShardMsg;
    type State = PortSlot;
    type Arguments = ShardArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ShardMsg>,
        args: ShardArgs,
    ) -> Result<Self::State, ActorProcessingErr> {
        let ShardArgs { epoch, rank, starter, ranks, replica } = args;
        let reports = replica.clone();
        let sink = Arc::new(move |event| {
            if let RankEvent::Lost(loss) = &event {
                drop(me.cast(ShardMsg::Lost(loss.clone())));
            }
            // C-3: an outcome goes to the scheduler's mailbox, not through this actor.
            drop(reports.cast(ReplicaMsg::Reported { epoch, rank, event }));
        });
        let (port, handle) = ranks.start(&starter, epoch, rank, sink)?;
        let port = PortSlot::new(port);
        replica.cast(ReplicaMsg::Started { epoch, rank, port: port.clone(), handle })?;
        Ok(port)
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
}
