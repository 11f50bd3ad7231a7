//! Collective operations: the transfer of tensors between the ranks of a group.
//!
//! - **CO-1** a collective returns the same bits on every rank. Sums are taken in rank order in `f32` and
//!   rounded once, so they depend on the inputs alone: not on arrival, sizes of pieces, or the links between
//!   the ranks.
//! - **CO-2** no call waits longer than the group's timeout. A dead process is noticed within some
//!   10 ms, a broken connection at once.
//! - **CO-3** a group ends for all ranks at once, with one root cause, and stays ended: every later call
//!   fails. An [`AbortHandle`] ends a group from any thread, and also a join (**A5**).
//! - **CO-4** memory is bounded by `ranks × buffer_bytes` for each rank and direction, whatever the
//!   size of a tensor.
//! - **CO-5** ranks of different epochs, groups or secrets exchange nothing.
//! - **CO-6** a group has all of its memory once it is joined: a full `/dev/shm` fails the join, never an
//!   operation. [`sweep`] removes what dead processes left there.
//!
//! Not here: which ranks form a group, and when a new group is formed (see `cluster`).
//!
//! # GPUs
//!
//! The feature `cuda` adds groups of NVIDIA GPUs over NCCL; the module `nccl` describes the differences. The
//! feature needs a CUDA toolkit with `nvcc` in `PATH` and `CUDA_HOME` set, and `libnccl` in the linker's
//! search path. To build without a GPU, also set `CUDA_COMPUTE_CAP` (`90` for an H100) and let `LIBRARY_PATH`
//! name the toolkit's `lib64/stubs`. A check (`just cuda`) needs the compiler alone, which PyPI has in the
//! packages `nvidia-cuda-nvcc`, `nvidia-cuda-crt`, `nvidia-cuda-runtime`, `nvidia-cuda-cccl` and `nvidia-nvvm`,
//! all of one version.
//!
//! ```text
//! cargo test -p playhouse-collectives --features cuda                      # without a GPU
//! cargo test -p playhouse-collectives --features cuda nccl -- --ignored    # two GPUs or more
//! ```

mod communicator;
mod element;
mod error;
mod host;
#[cfg(feature = "cuda")]
mod nccl;
mod spec;

pub use communicator::Communicator;
pub use element::{Element, Summand};
pub use error::{CollectiveError, JoinError};
pub use host::{AbortHandle, Group, sweep};
pub use spec::{BUFFER_BYTES, GroupSpec, Member, RANKS_MAX, Secret};
