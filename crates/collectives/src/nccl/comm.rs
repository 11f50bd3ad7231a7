//! An owned communicator of NCCL. Nothing here blocks, except dropping it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DriverError};
use candle_core::cuda_backend::cudarc::nccl::result::{self, NcclError};
use candle_core::cuda_backend::cudarc::nccl::sys;

use super::plan::{Call, Verb};

/// Marks a setting that NCCL chooses itself (`NCCL_CONFIG_UNDEF_INT`).
const UNSET: c_int = c_int::MIN;

/// The id of the communicator that a rank joins. Any process that knows the id can join, so the type has no
/// `Debug`.
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// A rank's communicator and the stream that it works on. Dropping it aborts its unfinished operations.
pub(super) struct Comm {
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time, and `Comm` is not `Sync`.
unsafe impl Send for Comm {}

// === impl UniqueId ===

impl UniqueId {
    pub(super) fn new() -> Result<Self, String> {
        let id = result::get_uniqueid().map_err(describe)?;
        Ok(Self(id.internal.map(|byte| byte as u8)))
    }
}

// === impl Comm ===

impl Comm {
    /// Begins to join, and continues in the background until [`is_idle`](Self::is_idle).
    pub(super) fn start(
        id: &UniqueId,
        (rank, size): (usize, usize),
        stream: Arc<CudaStream>,
    ) -> Result<Self, String> {
        stream.context().bind_to_thread().map_err(|error| error.to_string())?;
        let id = sys::ncclUniqueId { internal: id.0.map(|byte| byte as c_char) };
        let mut this = Self { comm: null_mut(), stream };
        let mut config = non_blocking();
        let (rank, size) = (narrow(rank), narrow(size));
        // SAFETY: NCCL writes the handle to a place of its own, and copies the config.
        unsafe {
            result::comm_init_rank_config(&raw mut this.comm, size, id, rank, &raw mut config)
        }
        .map_err(describe)?;
        Ok(this)
    }

    /// Returns whether NCCL has done everything that was asked of it, or passed it to the stream.
    pub(super) fn is_idle(&self) -> Result<bool, String> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the handle is that of a communicator until `drop`.
        unsafe { sys::ncclCommGetAsyncError(self.comm, &raw mut state) }
            .result()
            .map_err(describe)?;
        match state.result().map_err(describe)? {
            result::NcclStatus::InProgress => Ok(false),
            _ => Ok(true),
        }
    }

    /// Returns whether the device has done what was submitted. `mark` is the end of that work in the stream,
    /// once NCCL has put it there.
    pub(super) fn has_done(&self, mark: &mut Option<CudaEvent>) -> Result<bool, String> {
        if !self.is_idle()? {
            return Ok(false);
        }
        let wrong = |error: DriverError| error.to_string();
        if mark.is_none() {
            *mark = Some(self.stream.record_event(None).map_err(wrong)?);
        }
        mark.as_ref().map_or(Ok(false), CudaEvent::try_is_complete).map_err(wrong)
    }

    /// Asks NCCL to put an operation on the stream, which is done once [`is_idle`](Self::is_idle). `is_idle`
    /// must also hold before the call.
    ///
    /// # Safety
    /// From `input` and from `output` on, there is memory of this device for what the calls read
    /// and write. It stays until the stream has done them, or gave up because this was dropped.
    pub(super) unsafe fn submit(
        &self,
        calls: &[Call],
        kind: sys::ncclDataType_t,
        element_bytes: usize,
        (input, output): (u64, u64),
    ) -> Result<(), String> {
        self.stream.context().bind_to_thread().map_err(|error| error.to_string())?;
        let at = |start: u64, place: usize| (start + (place * element_bytes) as u64) as *mut c_void;
        result::group_start().map_err(describe)?;
        let called = calls.iter().try_for_each(|call| {
            // SAFETY: the caller's; the communicator and the stream are alive as long as this is.
            unsafe { self.call(call, kind, at(input, call.input), at(output, call.output)) }
        });
        // Also when a call was refused, or the thread's next calls would still be in the group.
        let ended = result::group_end();
        called.and(ended.map(|_| ())).map_err(describe)
    }

    /// # Safety
    /// As [`submit`](Self::submit), for this call.
    unsafe fn call(
        &self,
        call: &Call,
        kind: sys::ncclDataType_t,
        input: *const c_void,
        output: *mut c_void,
    ) -> Result<(), NcclError> {
        let (comm, stream, count) = (self.comm, self.stream.cu_stream().cast(), call.count);
        let sum = sys::ncclRedOp_t::ncclSum;
        // SAFETY: the caller's.
        let status = unsafe {
            match call.verb {
                Verb::AllReduce => {
                    result::all_reduce(input, output, count, kind, sum, comm, stream)
                }
                Verb::AllGather => result::all_gather(input, output, count, kind, comm, stream),
                Verb::ReduceScatter => {
                    result::reduce_scatter(input, output, count, kind, sum, comm, stream)
                }
                Verb::Broadcast { root } => {
                    result::broadcast(input, output, count, kind, narrow(root), comm, stream)
                }
                Verb::Reduce { root } => {
                    result::reduce(input, output, count, kind, sum, narrow(root), comm, stream)
                }
                Verb::Send { to } => result::send(input, count, kind, narrow(to), comm, stream),
                Verb::Recv { from } => {
                    result::recv(output, count, kind, narrow(from), comm, stream)
                }
            }
        };
        status.map(|_| ())
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        // There is no one to report these errors to: the group is over or unused.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: the handle is that of a communicator, and not used again.
        let _ = unsafe { result::comm_abort(self.comm) };
    }
}

/// Returns `NCCL_CONFIG_INITIALIZER`, without `blocking`: calls return at once, and a stuck call can be
/// aborted.
fn non_blocking() -> sys::ncclConfig_t {
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: 0xcafe_beef,
        // The version whose fields these are; an older NCCL reads the fields that it knows.
        version: 23_000,
        blocking: 0,
        cgaClusterSize: UNSET,
        minCTAs: UNSET,
        maxCTAs: UNSET,
        netName: null(),
        splitShare: UNSET,
        trafficClass: UNSET,
        commName: null(),
        collnetEnable: UNSET,
        CTAPolicy: UNSET,
        shrinkShare: UNSET,
        nvlsCTAs: UNSET,
        nChannelsPerNetPeer: UNSET,
        nvlinkCentricSched: UNSET,
        graphUsageMode: UNSET,
        numRmaCtx: UNSET,
        maxP2pPeers: UNSET,
    }
}

fn narrow(rank: usize) -> c_int {
    c_int::try_from(rank).expect("a group has at most 64 ranks")
}

fn describe(NcclError(code): NcclError) -> String {
    // SAFETY: NCCL has a text of its own, with its end, for each of its codes.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(code)) };
    format!("NCCL: {}", text.to_string_lossy())
}
