//! The communicator: one rank's end of a group, for tensors.

use std::net::TcpListener;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor, WithDType};
use half::vec::HalfBitsVecExt as _;
use half::{bf16, f16};

use crate::error::misuse;
#[cfg(feature = "cuda")]
use crate::nccl;
use crate::{AbortHandle, CollectiveError, Element, Group, GroupSpec, JoinError};

/// One rank's end of a group, for tensors: `bf16`, `f16` and `f32`, and `u8` and `u32` where nothing is
/// summed. Tensors are read in row-major order; a strided tensor is copied first. Every operation fails as
/// [`CollectiveError`] says.
///
/// Operations with a `_v` cut tensors along their first dimension, in parts of different sizes.
#[derive(Clone, Debug)]
pub struct Communicator {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    /// A group of one rank, in which nothing is transferred.
    Solo,
    Host(Arc<Group>),
    #[cfg(feature = "cuda")]
    Nccl(Arc<nccl::NcclGroup>),
}

/// An element type that candle supports.
trait Stored: Element + WithDType {
    /// Returns `len` zeros, on pages that the operating system need not touch yet.
    fn zeros(len: usize) -> Vec<Self>;
}

macro_rules! with_type {
    ($op:expr, $dtype:expr, [$($variant:ident: $type:ty),*], $E:ident => $body:expr) => {
        match $dtype {
            $(DType::$variant => { type $E = $type; $body })*
            other => {
                let allowed = [$(stringify!($variant)),*].join(", ");
                Err(misuse($op, format!("{other:?} tensors; allowed are {allowed}")))
            }
        }
    };
}

macro_rules! with_summand {
    ($op:expr, $dtype:expr, $E:ident => $body:expr) => {
        with_type!($op, $dtype, [BF16: bf16, F16: f16, F32: f32], $E => $body)
    };
}

macro_rules! with_element {
    ($op:expr, $dtype:expr, $E:ident => $body:expr) => {
        with_type!(
            $op, $dtype, [BF16: bf16, F16: f16, F32: f32, U8: u8, U32: u32], $E => $body
        )
    };
}

/// Delegates an operation to NCCL in a group of GPUs.
macro_rules! on_gpus {
    ($self:ident, $group:ident => $result:expr) => {
        #[cfg(feature = "cuda")]
        if let Backend::Nccl($group) = &$self.backend {
            return $result;
        }
    };
}

// === impl Communicator ===

impl Communicator {
    /// Returns a group of one rank.
    #[must_use]
    pub fn solo() -> Self {
        Self { backend: Backend::Solo }
    }

    /// Joins a group of CPU ranks as `rank`. Returns once all ranks are there, or `abort` is aborted. A rank
    /// whose port the operating system chose passes its `listener`.
    ///
    /// # Errors
    /// When a rank is missing at the group's timeout, and otherwise as [`JoinError`] says.
    pub fn join(
        spec: &GroupSpec,
        rank: usize,
        listener: Option<TcpListener>,
        abort: &AbortHandle,
    ) -> Result<Self, JoinError> {
        Ok(Self::from(Group::join(spec, rank, listener, abort)?))
    }

    /// Joins a group of GPUs as `rank`, with a `device` of
    /// [`new_cuda_with_stream`](Device::new_cuda_with_stream). The same spec joins the ranks' CPUs, for
    /// everything but tensors: the smallest `buffer_bytes` is enough.
    ///
    /// Over NCCL, sums depend on the order that NCCL chooses, a send waits until it is received, and ranks
    /// that call different operations get no error that says so. Call [`barrier`](Self::barrier) before
    /// dropping the communicator: operations that other ranks still run would fail.
    ///
    /// # Errors
    /// As [`join`](Self::join), and when NCCL or the device fails.
    #[cfg(feature = "cuda")]
    pub fn join_nccl(
        spec: &GroupSpec,
        rank: usize,
        device: &Device,
        abort: &AbortHandle,
    ) -> Result<Self, JoinError> {
        let cpu = Group::join(spec, rank, None, abort)?;
        let group = nccl::NcclGroup::join(cpu, spec.timeout, device)?;
        Ok(Self { backend: Backend::Nccl(Arc::new(group)) })
    }

    /// Returns this rank's index, counted from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.group().map_or(0, Group::rank)
    }

    /// Returns the number of ranks in the group.
    #[must_use]
    pub fn size(&self) -> usize {
        self.group().map_or(1, Group::size)
    }

    /// Returns the handle that the group was joined with. The handle ends the group from any thread, whatever
    /// the ranks are doing; the handle of a group of one has nothing to end.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.group().map_or_else(AbortHandle::new, Group::abort_handle)
    }

    /// Returns the sum over all ranks of `tensor`, which has the same shape and type on each.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, CollectiveError> {
        let Some(group) = self.group() else { return Ok(tensor) };
        let op = "all_reduce";
        with_summand!(op, tensor.dtype(), E => {
            on_gpus!(self, gpus => gpus.all_reduce::<E>(&tensor));
            let mut output = <E as Stored>::zeros(tensor.elem_count());
            with_elements::<E, _>(op, &tensor, |input| group.all_reduce(input, &mut output))?;
            tensor_of(op, output, tensor.shape().clone())
        })
    }

    /// Returns the tensors of all ranks, one after the other; the tensor of rank `r` has `rows[r]` rows.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn all_gather_v(&self, tensor: &Tensor, rows: &[usize]) -> Result<Tensor, CollectiveError> {
        let op = "all_gather_v";
        let Some(group) = self.group() else { return solo_rows(op, tensor, &[rows]) };
        let (shape, counts) = cut(op, tensor, rows)?;
        with_element!(op, tensor.dtype(), E => {
            on_gpus!(self, gpus => gpus.all_gather_v::<E>(tensor, &counts, shape));
            let mut output = <E as Stored>::zeros(shape.elem_count());
            with_elements::<E, _>(op, tensor, |input| {
                group.all_gather_v(input, &counts, &mut output)
            })?;
            tensor_of(op, output, shape)
        })
    }

    /// Returns this rank's rows of the sum over all ranks of `tensor`; rank `r` gets the `rows[r]` rows that
    /// follow those of the lower ranks.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn reduce_scatter_v(
        &self,
        tensor: &Tensor,
        rows: &[usize],
    ) -> Result<Tensor, CollectiveError> {
        let op = "reduce_scatter_v";
        let Some(group) = self.group() else { return solo_rows(op, tensor, &[rows]) };
        let (_, counts) = cut(op, tensor, rows)?;
        let own = rows.get(group.rank()).map_or(&[][..], std::slice::from_ref);
        let (shape, _) = cut(op, tensor, own)?;
        with_summand!(op, tensor.dtype(), E => {
            on_gpus!(self, gpus => gpus.reduce_scatter_v::<E>(tensor, &counts, shape));
            let mut output = <E as Stored>::zeros(shape.elem_count());
            with_elements::<E, _>(op, tensor, |input| {
                group.reduce_scatter_v(input, &counts, &mut output)
            })?;
            tensor_of(op, output, shape)
        })
    }

    /// Sends the next `send_rows[r]` rows to each rank `r`, and returns the `recv_rows[r]` rows that each
    /// rank `r` sends to this one, in rank order.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn all_to_all_v(
        &self,
        tensor: &Tensor,
        send_rows: &[usize],
        recv_rows: &[usize],
    ) -> Result<Tensor, CollectiveError> {
        let op = "all_to_all_v";
        let Some(group) = self.group() else {
            return solo_rows(op, tensor, &[send_rows, recv_rows]);
        };
        let (_, sent) = cut(op, tensor, send_rows)?;
        let (shape, received) = cut(op, tensor, recv_rows)?;
        with_element!(op, tensor.dtype(), E => {
            on_gpus!(self, gpus => gpus.all_to_all_v::<E>(tensor, &sent, &received, shape));
            let mut output = <E as Stored>::zeros(shape.elem_count());
            with_elements::<E, _>(op, tensor, |input| {
                group.all_to_all_v(input, &sent, &mut output, &received)
            })?;
            tensor_of(op, output, shape)
        })
    }

    /// Returns the tensor of rank `root` on all ranks. The other ranks pass a tensor of the same shape and
    /// type, whose values do not matter.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn broadcast(&self, tensor: Tensor, root: usize) -> Result<Tensor, CollectiveError> {
        let op = "broadcast";
        let Some(group) = self.group() else {
            let reason = format!("root {root} of 1 ranks");
            return if root == 0 { Ok(tensor) } else { Err(misuse(op, reason)) };
        };
        with_element!(op, tensor.dtype(), E => {
            on_gpus!(self, gpus => gpus.broadcast::<E>(&tensor, root));
            let mut data = with_elements::<E, _>(op, &tensor, |input| Ok(input.to_vec()))?;
            group.broadcast(&mut data, root)?;
            tensor_of(op, data, tensor.shape().clone())
        })
    }

    /// Sends `tensor` to rank `to`, which receives equally many elements of that type. Returns once the
    /// tensor is buffered: at once if it fits into the free part of the group's `buffer_bytes`.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn send(&self, tensor: &Tensor, to: usize) -> Result<(), CollectiveError> {
        let op = "send";
        let group = self.group().ok_or_else(|| misuse(op, alone(to)))?;
        with_element!(op, tensor.dtype(), E => {
            on_gpus!(self, gpus => gpus.send::<E>(tensor, to));
            with_elements::<E, _>(op, tensor, |data| group.send(data, to))
        })
    }

    /// Returns the next tensor that rank `from` sends to this one. Both ranks know its shape and type;
    /// another size or type is an error.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn recv(
        &self,
        shape: impl Into<Shape>,
        dtype: DType,
        from: usize,
    ) -> Result<Tensor, CollectiveError> {
        let (op, shape) = ("recv", shape.into());
        let group = self.group().ok_or_else(|| misuse(op, alone(from)))?;
        with_element!(op, dtype, E => {
            on_gpus!(self, gpus => gpus.recv::<E>(shape, from));
            let mut data = <E as Stored>::zeros(shape.elem_count());
            group.recv(&mut data, from)?;
            tensor_of(op, data, shape)
        })
    }

    /// Waits until all ranks have called `barrier`.
    ///
    /// # Errors
    /// As [`CollectiveError`] says.
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        on_gpus!(self, gpus => gpus.barrier());
        self.group().map_or(Ok(()), Group::barrier)
    }

    fn group(&self) -> Option<&Group> {
        match &self.backend {
            Backend::Solo => None,
            Backend::Host(group) => Some(group),
            #[cfg(feature = "cuda")]
            Backend::Nccl(group) => Some(group.cpu()),
        }
    }
}

impl From<Group> for Communicator {
    fn from(group: Group) -> Self {
        Self { backend: Backend::Host(Arc::new(group)) }
    }
}

// === impl Stored ===

impl Stored for bf16 {
    fn zeros(len: usize) -> Vec<Self> {
        vec![0u16; len].reinterpret_into()
    }
}

impl Stored for f16 {
    fn zeros(len: usize) -> Vec<Self> {
        vec![0u16; len].reinterpret_into()
    }
}

impl Stored for f32 {
    fn zeros(len: usize) -> Vec<Self> {
        vec![0.0; len]
    }
}

impl Stored for u8 {
    fn zeros(len: usize) -> Vec<Self> {
        vec![0; len]
    }
}

impl Stored for u32 {
    fn zeros(len: usize) -> Vec<Self> {
        vec![0; len]
    }
}

/// Calls `act` with the elements of a tensor, in row-major order.
fn with_elements<E: Stored, R>(
    op: &'static str,
    tensor: &Tensor,
    act: impl FnOnce(&[E]) -> Result<R, CollectiveError>,
) -> Result<R, CollectiveError> {
    let tensor = tensor.contiguous().map_err(|error| misuse(op, error.to_string()))?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(misuse(op, "a tensor of another device; this group moves CPU tensors".into()));
    };
    let elements = elements::<E>(storage).map_err(|error| misuse(op, error.to_string()))?;
    let (start, end) = layout.contiguous_offsets().expect("made contiguous above");
    act(&elements[start..end])
}

fn elements<E: Stored>(storage: &CpuStorage) -> candle_core::Result<&[E]> {
    storage.as_slice()
}

fn tensor_of<E: Stored>(
    op: &'static str,
    elements: Vec<E>,
    shape: Shape,
) -> Result<Tensor, CollectiveError> {
    Tensor::from_vec(elements, shape, &Device::Cpu).map_err(|error| misuse(op, error.to_string()))
}

/// Returns the shape of all `rows` of such tensors together, and the number of elements of each.
fn cut(
    op: &'static str,
    tensor: &Tensor,
    rows: &[usize],
) -> Result<(Shape, Vec<usize>), CollectiveError> {
    let [_, row @ ..] = tensor.dims() else {
        return Err(misuse(op, "a scalar; give a tensor with rows".to_owned()));
    };
    let width: usize = row.iter().product();
    let dims: Vec<_> = [rows.iter().sum()].iter().chain(row).copied().collect();
    Ok((Shape::from(dims), rows.iter().map(|rows| rows * width).collect()))
}

/// Returns the result of an operation along rows for a single rank.
fn solo_rows(
    op: &'static str,
    tensor: &Tensor,
    rows: &[&[usize]],
) -> Result<Tensor, CollectiveError> {
    let own = tensor.dims().first().copied().unwrap_or(0);
    match rows.iter().find(|rows| **rows != [own]) {
        None => Ok(tensor.clone()),
        Some(rows) => Err(misuse(op, format!("rows {rows:?}; this group of one has [{own}]"))),
    }
}

fn alone(rank: usize) -> String {
    format!("rank {rank}; this group of one has no other rank")
}
