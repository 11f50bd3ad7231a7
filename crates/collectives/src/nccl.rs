//! Groups of NVIDIA GPUs, one for each rank, over NCCL.
//!
//! Beside NCCL's communicator there is a group of the same ranks on their CPUs, joined by the same spec. The
//! CPU group distributes NCCL's unique id, runs barriers, and ends the group for all ranks: NCCL knows no
//! epochs, does not see a process die, and can only be aborted by each rank for itself. So **CO-3** and
//! **CO-5** hold unchanged, and an [`AbortHandle`](crate::AbortHandle) is that of the CPU group. The
//! differences are:
//!
//! - **NC-1** no call into NCCL blocks. A rank that waits checks its device, NCCL's errors, the CPU group and
//!   the clock, so that **CO-2** holds. The time counts from the call: it includes earlier work of the
//!   stream.
//! - **NC-2** an operation returns once the device has done it. An operation that fails is aborted
//!   (`ncclCommAbort`), and its tensors are freed in the order of the stream: after it.
//! - **NC-3** of **CO-1** only this is left: all ranks get the same bits. The order in which NCCL adds, and
//!   how often it rounds, depend on ranks, sizes and links.
//! - **NC-4** ranks that call different operations, or with different sizes, get no error that says so. They
//!   time out, or get wrong values.
//! - **NC-5** nothing is buffered: a send returns once it is received. Leave after a barrier: a rank that
//!   leaves ends operations that other ranks still run.

mod comm;
mod group;
mod plan;

pub(crate) use group::NcclGroup;
