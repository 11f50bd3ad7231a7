//! Stage: owns a range of layers, and the shards that hold them.

use playhouse_types::Epoch;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tracing::info;

use crate::shard::{Shard, ShardArgs};

pub(crate) struct Stage;

/// A stage takes no messages: it starts its shards and falls with them.
pub(crate) enum StageMsg {}

// === impl Stage ===

impl Actor for Stage {
    type Msg = StageMsg;
    type State = Epoch;
    type Arguments = ShardArgs;

    async fn pre_start(
        &self,
        me: ActorRef<StageMsg>,
        args: ShardArgs,
    ) -> Result<Epoch, ActorProcessingErr> {
        let epoch = args.epoch;
        Actor::spawn_linked(None, Shard, args, me.get_cell()).await?;
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
