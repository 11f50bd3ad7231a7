//! One rank's end of a group of GPUs.

use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr as _, DevicePtrMut as _, DeviceRepr,
};
use candle_core::cuda_backend::cudarc::nccl::safe::NcclType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Shape, Storage, Tensor};

use super::comm::{Comm, UniqueId};
use super::plan::{self, Call, Verb};
use crate::error::misuse;
use crate::host::{Deadline, expect_len};
use crate::{CollectiveError, JoinError};

/// Time for which the device is polled without a pause: longer than the transfers of a layer take when tokens
/// are generated.
const BUSY: Duration = Duration::from_micros(500);
/// Pause between later polls.
const SLICE: Duration = Duration::from_micros(50);

/// An element type that candle, CUDA and NCCL all support.
pub(crate) trait Number: CudaDType + DeviceRepr + NcclType {}

impl<E: CudaDType + DeviceRepr + NcclType> Number for E {}

/// One rank's end of a group of GPUs.
pub(crate) struct NcclGroup {
    cpu: crate::Group,
    timeout: Duration,
    device: CudaDevice,
    /// Communicator; `None` once an operation has failed. Locked as long as an operation takes.
    comm: Mutex<Option<Comm>>,
}

// === impl NcclGroup ===

impl NcclGroup {
    /// Joins a group of the GPUs of the ranks of `cpu`.
    ///
    /// # Errors
    /// As [`JoinError`] says.
    pub(crate) fn join(
        cpu: crate::Group,
        timeout: Duration,
        device: &Device,
    ) -> Result<Self, JoinError> {
        let device = own_stream(device)?;
        let failed = |error: CollectiveError| JoinError::system("set up NCCL", error);
        let mut id = UniqueId([0; 128]);
        if cpu.rank() == 0 {
            id = UniqueId::new().map_err(|reason| failed(cpu.fail(&reason)))?;
        }
        cpu.broadcast(&mut id.0, 0).map_err(failed)?;
        let place = (cpu.rank(), cpu.size());
        let comm = Comm::start(&id, place, device.cuda_stream())
            .map_err(|reason| failed(cpu.fail(&reason)))?;
        let this = Self { cpu, timeout, device, comm: Mutex::new(None) };
        this.wait(|| comm.is_idle()).map_err(failed)?;
        *this.turn() = Some(comm);
        Ok(this)
    }

    /// Returns the CPU group of the same ranks.
    pub(crate) fn cpu(&self) -> &crate::Group {
        &self.cpu
    }

    pub(crate) fn all_reduce<E: Number>(&self, tensor: &Tensor) -> Result<Tensor, CollectiveError> {
        let calls = plan::whole(Verb::AllReduce, tensor.elem_count());
        self.run::<E>("all_reduce", Some(tensor), tensor.shape().clone(), &calls)
    }

    /// Gathers the parts of all ranks; `shape` is the shape of all parts together.
    pub(crate) fn all_gather_v<E: Number>(
        &self,
        tensor: &Tensor,
        counts: &[usize],
        shape: Shape,
    ) -> Result<Tensor, CollectiveError> {
        let op = "all_gather_v";
        let parts = self.cpu.parts(op, counts, shape.elem_count())?;
        expect_len(op, "input", tensor.elem_count(), counts[self.cpu.rank()])?;
        self.run::<E>(op, Some(tensor), shape, &plan::all_gather_v(&parts))
    }

    /// Sums and scatters; `shape` is the shape of this rank's share.
    pub(crate) fn reduce_scatter_v<E: Number>(
        &self,
        tensor: &Tensor,
        counts: &[usize],
        shape: Shape,
    ) -> Result<Tensor, CollectiveError> {
        let op = "reduce_scatter_v";
        let shares = self.cpu.parts(op, counts, tensor.elem_count())?;
        self.run::<E>(op, Some(tensor), shape, &plan::reduce_scatter_v(&shares))
    }

    /// Sends and receives parts; `shape` is the shape of all parts received.
    pub(crate) fn all_to_all_v<E: Number>(
        &self,
        tensor: &Tensor,
        sent: &[usize],
        received: &[usize],
        shape: Shape,
    ) -> Result<Tensor, CollectiveError> {
        let (op, own) = ("all_to_all_v", self.cpu.rank());
        let from = self.cpu.parts(op, sent, tensor.elem_count())?;
        let to = self.cpu.parts(op, received, shape.elem_count())?;
        expect_len(op, "what this rank sends itself", sent[own], received[own])?;
        self.run::<E>(op, Some(tensor), shape, &plan::all_to_all_v(&from, &to))
    }

    pub(crate) fn broadcast<E: Number>(
        &self,
        tensor: &Tensor,
        root: usize,
    ) -> Result<Tensor, CollectiveError> {
        let op = "broadcast";
        self.cpu.expect_root(op, root)?;
        let calls = plan::whole(Verb::Broadcast { root }, tensor.elem_count());
        self.run::<E>(op, Some(tensor), tensor.shape().clone(), &calls)
    }

    pub(crate) fn send<E: Number>(
        &self,
        tensor: &Tensor,
        to: usize,
    ) -> Result<(), CollectiveError> {
        let op = "send";
        self.cpu.expect_peer(op, to)?;
        let calls = plan::whole(Verb::Send { to }, tensor.elem_count());
        self.run::<E>(op, Some(tensor), Shape::from(0), &calls).map(|_| ())
    }

    pub(crate) fn recv<E: Number>(
        &self,
        shape: Shape,
        from: usize,
    ) -> Result<Tensor, CollectiveError> {
        let op = "recv";
        self.cpu.expect_peer(op, from)?;
        let calls = plan::whole(Verb::Recv { from }, shape.elem_count());
        self.run::<E>(op, None, shape, &calls)
    }

    pub(crate) fn barrier(&self) -> Result<(), CollectiveError> {
        // Every operation has been waited for, so the devices have nothing left to do.
        let _turn = self.turn();
        self.cpu.barrier()
    }

    /// Runs `calls` from `input` to a tensor of this shape, and waits for them.
    fn run<E: Number>(
        &self,
        op: &'static str,
        input: Option<&Tensor>,
        shape: Shape,
        calls: &[Call],
    ) -> Result<Tensor, CollectiveError> {
        let failed = |error: candle_core::Error| self.cpu.fail(&error.to_string());
        let input = input.map(Tensor::contiguous).transpose().map_err(failed)?;
        let input = input.as_ref().map(Tensor::storage_and_layout);
        let stream = self.device.cuda_stream();
        let source = match &input {
            None => None,
            Some((storage, layout)) => {
                let elements = self.elements::<E>(op, storage)?;
                let (start, end) = layout.contiguous_offsets().expect("made contiguous above");
                Some(elements.slice(start..end))
            }
        };
        let source = source.as_ref().map(|elements| elements.device_ptr(&stream));
        // CUDA has no allocations of 0 bytes.
        let len = shape.elem_count().max(1);
        // SAFETY: of numbers, which the calls write before anybody reads them.
        let mut output = unsafe { self.device.alloc::<E>(len) }.map_err(failed)?;
        let (target, written) = output.device_ptr_mut(&stream);
        let (source, _read) = source.unzip();
        // SAFETY: the plan reads within the input and writes within the output (its tests), which
        // have as many elements as the counts that it was made of (checked by the callers). Both
        // outlive the call.
        unsafe { self.execute::<E>(calls, (source.unwrap_or_default(), target)) }?;
        drop(written);
        let storage = CudaStorage::wrap_cuda_slice(output, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    /// # Safety
    /// There is memory of this device for what `calls` read from the first address on and write
    /// from the second.
    unsafe fn execute<E: Number>(
        &self,
        calls: &[Call],
        places: (u64, u64),
    ) -> Result<(), CollectiveError> {
        let mut turn = self.turn();
        self.cpu.check()?;
        let comm = turn.as_ref().expect("a group whose communicator is gone is over");
        // SAFETY: the caller's. What is allocated on the stream is freed in its order.
        let submitted = unsafe { comm.submit(calls, E::as_nccl_type(), size_of::<E>(), places) };
        let done = match submitted {
            Ok(()) => {
                let mut mark = None;
                self.wait(|| comm.has_done(&mut mark))
            }
            Err(reason) => Err(self.cpu.fail(&reason)),
        };
        if done.is_err() {
            *turn = None;
        }
        done
    }

    /// Waits for NCCL or the device (**NC-1**).
    #[expect(clippy::disallowed_methods, reason = "a device wakes nobody, and there is a deadline")]
    fn wait(
        &self,
        mut is_ready: impl FnMut() -> Result<bool, String>,
    ) -> Result<(), CollectiveError> {
        let deadline = Deadline::after(self.timeout);
        let busy = deadline.within(BUSY);
        loop {
            if is_ready().map_err(|reason| self.cpu.fail(&reason))? {
                return Ok(());
            }
            if !busy.has_passed() {
                thread::yield_now();
                continue;
            }
            self.cpu.check()?;
            if deadline.has_passed() {
                let timeout = self.timeout;
                return Err(self.cpu.fail(&format!("not done within {timeout:?}")));
            }
            thread::sleep(SLICE);
        }
    }

    /// Locks NCCL for one operation: calls from several threads take turns.
    fn turn(&self) -> MutexGuard<'_, Option<Comm>> {
        self.comm.lock().unwrap_or_else(|poisoned| {
            // A panic in the middle of an operation: how far the operation came is unknown.
            self.cpu.abort_handle().abort();
            poisoned.into_inner()
        })
    }

    /// Returns the memory of a tensor on this group's device.
    fn elements<'a, E: Number>(
        &self,
        op: &'static str,
        storage: &'a Storage,
    ) -> Result<&'a CudaSlice<E>, CollectiveError> {
        match storage {
            Storage::Cuda(storage) if storage.device.id() == self.device.id() => {
                storage.as_cuda_slice().map_err(|error| misuse(op, error.to_string()))
            }
            _ => Err(misuse(op, "a tensor of another device; this group moves its GPU's".into())),
        }
    }
}

impl fmt::Debug for NcclGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {:?}", self.cpu, self.device)
    }
}

/// Returns a GPU with a stream for all threads: NCCL puts work on it from threads of its own.
fn own_stream(device: &Device) -> Result<CudaDevice, JoinError> {
    let Device::Cuda(device) = device else {
        return Err(JoinError::Invalid(format!("NCCL joins CUDA devices, not {device:?}")));
    };
    // Streams without a handle of their own: the default one, its two names, and each thread's.
    if device.cuda_stream().cu_stream().addr() <= 2 {
        let reason = "the device needs a stream of its own: Device::new_cuda_with_stream";
        return Err(JoinError::Invalid(reason.to_owned()));
    }
    Ok(device.clone())
}
