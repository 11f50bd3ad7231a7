//! Groups of CPU ranks: threads of a process, processes of a machine, machines.
//!
//! From each rank to each other rank there is a ring of bytes: in shared memory on one machine, and between
//! two machines with a connection in the middle. An operation uses rings only.

mod abort;
mod bell;
mod clock;
mod frame;
mod fuse;
mod group;
mod handshake;
mod join;
mod lane;
mod memory;
mod proof;
mod pump;
mod rank_lanes;
mod rendezvous;
mod ring;
mod segment;
mod sum;
mod watch;

pub use abort::AbortHandle;
#[cfg(feature = "cuda")]
pub(crate) use clock::Deadline;
pub use group::Group;
#[cfg(feature = "cuda")]
pub(crate) use group::expect_len;
pub use segment::sweep;
