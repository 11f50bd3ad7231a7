//! The actors of a cluster, and the front door by which requests enter. This is the only crate that
//! knows ractor (**A7**): a handler decodes, calls a pure function and acts; it holds no algorithm and
//! never blocks.
//!
//! ```text
//! Deployment        keeps what should run running
//!  └ Replica × DP   one model copy: scheduler, epoch, one-for-all restart
//!     └ Stage × PP  a range of layers
//!        └ Shard × TP   one rank: owns an engine thread
//! ```
//!
//! - **C-1** an accepted request ends exactly once: with its last token, a cancellation or a
//!   failure. It outlives its engine: after a restart it continues behind its emitted tokens.
//! - **C-2** a request is accepted only with a permit, and every permit returns; so every mailbox
//!   and every token buffer is bounded (**A9**), and overload is refused at once (**G6**).
//! - **C-3** plans go from the replica straight to the engine's port, and outcomes straight back:
//!   Deployment, Stage and Shard never see a plan or a token (**A10**).
//! - **C-4** dropping a [`Generation`] frees its blocks within one step (**G5**).
//! - **C-5** one dead rank restarts the whole replica under a higher epoch, within a budget; past it
//!   the replica is failed, says why, and the process lives (**G10**).
//! - **C-6** the requests of a replica that restarts or fails move to one that serves, if there is
//!   one, and go on behind their last token (**G1**).
//! - **C-7** while no replica serves, requests are parked, new ones and those that were running. They
//!   go to the first that serves, and end as unserved when there is none within
//!   [`AdmissionLimits::no_capacity_timeout`] (**G1**).
//! - **C-8** a rank that hangs is as good as dead: when a step of it is overdue (see `watchdog`), it is
//!   ended from outside, its replica restarts, and nothing it says any more is heard (**G3**, **G7**).
//! - **C-9** a replica that failed holds no device, and no process.
#![forbid(unsafe_code)]

mod admission;
mod awaited;
mod blueprint;
mod child;
mod clock;
mod cluster;
mod control;
mod departures;
mod deployment;
mod dispatcher;
mod front_door;
mod generation;
mod head;
mod journey;
mod ledger;
mod live_ranks;
mod load_reporter;
mod mail;
mod memory;
mod node;
mod nodes;
mod oom_kills;
mod operation;
mod outlier;
mod outlook;
mod overview;
mod pace;
mod peer_paces;
mod progress;
mod rank;
mod rank_process;
mod remote;
mod replica;
mod replica_entry;
mod replicas;
mod restart;
mod start_error;
mod status;
mod submission;
mod sync;
mod tasks;
mod timer;
mod watchdog;
mod weights;

pub use admission::{
    AdmissionLimits, Capacity, Client, ClientLimits, Excess, LimitHolder, Measure,
};
pub use awaited::{Awaited, MissingDevices, WeightsProgress, WeightsRead};
pub use blueprint::{Blueprint, Blueprints, Drafting};
pub use child::{Child, ChildStarter};
pub use cluster::{Cluster, DeploymentConfig};
pub use control::{ControlConfig, ControlPlane, NoToken, NotRevoked};
pub use front_door::{FrontDoor, Rejected};
pub use generation::Generation;
pub use head::{Found, HEAD, HeadAddress, ListenError, Listener, LookUp, NoHead, Way};
pub use ledger::{Begun, Drained, JournalError, Ledger, Recovered};
pub use memory::{MemoryNeeds, RankBytes};
pub use node::{NodeConfig, NodeError, run_node};
pub use nodes::Device;
pub use operation::{
    Answer, Change, Desired, Operation, OperationId, OperationStep, Phase, Refused, replica_layout,
};
pub use overview::{DeploymentStatus, Overview};
pub use playhouse_router::Policy;
pub use progress::{Patience, Progress};
pub use rank::{
    Loss, LossCause, RankEvent, RankHandle, RankPort, RankSink, RankStarter, StartedRank,
};
pub use rank_process::{Loading, RankEngine, RankHost, RankProcessError, ReadProgress, run_rank};
pub use remote::{RemoteConfig, processes};
pub use start_error::StartError;
pub use status::{
    ClusterStatus, DeviceStatus, NodeStatus, ReplicaState, ReplicaStatus, ShardState, ShardStatus,
    Share, StageStatus, Whereabouts,
};
pub use submission::Submission;
pub use watchdog::StepDeadline;
pub use weights::ExpectedWeights;
