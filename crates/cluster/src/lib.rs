//! The actors of a cluster, and the front door requests enter by. The only crate that knows ractor
//! (**A7**): a handler decodes, calls a pure function and acts; it holds no algorithm and never
//! blocks.
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
#![forbid(unsafe_code)]

mod backend;
mod child;
mod control;
mod deployment;
mod front_door;
mod generation;
mod head;
mod node;
mod nodes;
mod overview;
mod pipeline;
mod rank;
mod rank_process;
mod remote;
mod replica;
mod report;
mod restart;
mod routing;
mod seats;
mod shard;
mod stage;
mod status;

pub use control::{ControlConfig, ControlError, ControlPlane};
pub use deployment::{Cluster, DeploymentConfig, StartError};
pub use front_door::{AdmissionLimits, FrontDoor, Rejected};
pub use generation::Generation;
pub use head::{HEAD, NoHead};
pub use node::{NodeConfig, NodeError, run_node};
pub use nodes::Device;
pub use overview::{NoToken, Overview};
pub use playhouse_router::Policy;
pub use rank::{
    Layout, Loss, LossCause, Rank, RankEvent, RankPort, RankSink, RankStarter, StartedRank,
};
pub use rank_process::{RankEngine, RankHost, RankProcessError, run_rank};
pub use remote::{RemoteConfig, processes};
pub use status::{
    ClusterStatus, DeviceStatus, NodeStatus, ReplicaState, ReplicaStatus, ShardState, ShardStatus,
    Share, StageStatus, Whereabouts,
};
