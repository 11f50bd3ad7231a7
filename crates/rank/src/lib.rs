//! The runtime of a rank: what it holds of a model, the groups it joins and the engine it starts, whether it
//! is a thread of the head ([`ThreadRanks`]) or a process of its own ([`ProcessHost`]).
//!
//! - **RT-1** weights outlive an epoch: a rank that is told to load what it holds reads nothing, unless the
//!   files have changed.
//! - **RT-2** an engine joins its groups on its own thread, and an abort ends the join.
//! - **RT-3** an engine thread that hangs is left behind with its thread pool and its KV cache, up to a bound.
//!
//! Not here: who starts a rank and what it is told (see `playhouse-cluster`).
#![forbid(unsafe_code)]

mod group_place;
mod model;
mod process;
mod threads;

pub use model::sweep_shared_memory;
pub use process::ProcessHost;
pub use threads::{ReplicaModel, StarterMaker, ThreadRanks};
