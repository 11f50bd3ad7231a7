//! The messages between actors, and the parts of a request on its way between them.
//!
//! All actors use these types, and none of these types knows an actor, so no actor has to know another.
//! [`Sink`], [`Pending`] and [`WaitingRoom`] depend on each other in a circle: a request that is given
//! up returns to the room.

mod home;
mod pending;
mod port_slot;
mod sink;
mod waiting_queue;
mod waiting_room;

use std::sync::Arc;
use std::time::Duration;

use playhouse_layout::RankId;
use playhouse_types::Epoch;
use tokio::sync::oneshot;

pub(crate) use self::home::Home;
pub(crate) use self::pending::Pending;
pub(crate) use self::port_slot::PortSlot;
pub(crate) use self::sink::{Asked, OpenRequest, Sink};
pub(crate) use self::waiting_room::{Parked, WaitingRoom};

use crate::operation::{Answer, Change, Refused};
use crate::rank::{RankEvent, RankHandle, RankStarter};
use crate::timer::TimerId;

/// A request of an operator to a deployment.
pub(crate) enum DeploymentMsg {
    /// A change; see [`Overview::change`](crate::Overview::change).
    Change {
        change: Change,
        key: Option<String>,
        dry_run: bool,
        answer: oneshot::Sender<Result<Answer, Refused>>,
    },
}

/// A message to a replica.
pub(crate) enum ReplicaMsg {
    /// Take a request in.
    Take(Pending),
    /// Some callers have left.
    CallersLeft,
    /// A shard has started its rank.
    Started { epoch: Epoch, rank: RankId, port: PortSlot, handle: Arc<dyn RankHandle> },
    /// A rank reports.
    Reported { epoch: Epoch, rank: RankId, event: RankEvent },
    /// The reason why the ranks of the last epoch were lost is known: see to the requests.
    Recover(TimerId),
    /// Start this epoch.
    Restart(TimerId),
    /// Take no more requests, and give up the ranks when the requests that are left have ended, or at
    /// the deadline.
    Drain { deadline: Duration },
    /// The deadline of a drain has passed.
    Overdue(TimerId),
    /// No rank is left.
    Vacated(TimerId),
    /// Serve again, after a drain or a failure.
    Revive(Revival),
    /// Look after the steps under way.
    Watch,
    /// Try the replica again after it was an outlier.
    Readmit(TimerId),
}

/// Everything that a replica needs to serve again.
pub(crate) struct Revival {
    pub(crate) starter: RankStarter,
    /// Dropped when the state of the replica says that it starts.
    pub(crate) _begun: oneshot::Sender<()>,
}
