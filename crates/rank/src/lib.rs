//! The runtime of a rank: the part of a model that the rank holds, the groups that it joins and the engine
//! that it starts. A rank is a thread of the head ([`ThreadRanks`]) or a process of its own
//! ([`ProcessHost`]).
//!
//! - **RT-1** weights outlive an epoch: a rank that is told to load weights that it already holds reads
//!   nothing, unless the files have changed.
//! - **RT-2** an engine joins its groups on its own thread, and an abort ends the join.
//! - **RT-3** an engine thread that hangs is left behind with its thread pool and its KV cache, up to a bound.
//!
//! Not here: how a rank is started and which commands it gets (see `playhouse-cluster`).
#![forbid(unsafe_code)]

mod group_place;
mod model;
mod process;
mod threads;

pub use model::sweep_shared_memory;
pub use process::ProcessHost;
pub use threads::{ReplicaModel, StarterMaker, ThreadRanks};
