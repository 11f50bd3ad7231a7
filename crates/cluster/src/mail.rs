//! What the actors tell each other, and what a request is made of on its way between them.
//!
//! All actors use these types, and none of these types knows an actor: so no actor has to know another.
//! [`Sink`], [`Pending`] and [`WaitingRoom`] are one thing in three files: a request that is given up returns
//! to the room.

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

/// What an operator asks of a deployment.
pub(crate) enum DeploymentMsg {
    /// A change; see [`Overview::change`](crate::Overview::change).
    Change {
        change: Change,
        key: Option<String>,
        dry_run: bool,
        answer: oneshot::Sender<Result<Answer, Refused>>,
    },
}

/// What a replica is told.
pub(crate) enum ReplicaMsg {
    /// Take a request in.
    Take(Pending),
    /// Some callers have left.
    CallersLeft,
    /// A shard has started its rank.
    Started { epoch: Epoch, rank: RankId, port: PortSlot, handle: Arc<dyn RankHandle> },
    /// A rank reports.
    Reported { epoch: Epoch, rank: RankId, event: RankEvent },
    /// It is known why the ranks of the last epoch were lost: see to the requests.
    Recover(TimerId),
    /// Start this epoch.
    Restart(TimerId),
    /// Take no more requests, and give up the ranks when those there are have ended, or at the
    /// deadline.
    Drain { deadline: Duration },
    /// The deadline of a drain has passed.
    Overdue(TimerId),
    /// No rank is left.
    Vacated(TimerId),
    /// Serve again, after a drain or a failure.
    Revive(Revival),
    /// Look after the steps under way.
    Watch,
    /// It is tried again after it was an outlier.
    Readmit(TimerId),
}

/// What a replica needs to serve again.
pub(crate) struct Revival {
    pub(crate) starter: RankStarter,
    /// Dropped when the state of the replica says so.
    pub(crate) _begun: oneshot::Sender<()>,
}
