//! Groups of NVIDIA GPUs, one for each rank, over NCCL.
//!
//! Beside NCCL's communicator there is a group of the same ranks on their CPUs, joined by the same
//! spec. It hands NCCL's unique id round, holds barriers, and ends the group for everybody: NCCL
//! knows no epochs, does not see a process die, and can only be aborted by each rank for itself.
//! So **CO-3** and **CO-5** hold as they stand, and an [`AbortHandle`](crate::AbortHandle) is the
//! one of the CPU group. What differs:
//!
//! - **NC-1** no call into NCCL blocks. A rank that waits looks at its device, at NCCL's errors, at
//!   the CPU group and at the clock, so that **CO-2** holds. The time counts from the call: it
//!   includes what the stream had to do before.
//! - **NC-2** an operation returns once the device has done it. One that fails is aborted
//!   (`ncclCommAbort`), and its tensors are freed in the order of the stream: after it.
//! - **NC-3** of **CO-1** only this is left: all ranks get the same bits. In which order NCCL adds,
//!   and how often it rounds, depends on ranks, sizes and links.
//! - **NC-4** ranks that call different operations, or with different sizes, are not told so. They
//!   time out, or get wrong values.
//! - **NC-5** nothing is buffered: a send returns once it is received. Leave after a barrier: a rank
//!   that leaves ends what others still do.

mod comm;
mod group;
mod plan;

pub(crate) use group::NcclGroup;
