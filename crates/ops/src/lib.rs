//! Tensor operations of the decoder, sampling included: one function per op, CPU kernels chosen at run time.
//!
//! - **OP-1** a row's bits do not depend on the batch that the row is in, its place there, the chunks of the
//!   prompt, or the number of threads. They depend on the row, the weights and the [`Isa`].
//! - **OP-2** a non-finite value in a row changes no other row.
//! - **OP-3** values are rounded where Hugging Face transformers (eager, CPU) rounds them; between
//!   those points all arithmetic is `f32`.
//!
//! Tensors are row-major `bf16`, `f16` or `f32`; all operands of an op have one type. Weights are used as
//! they lie in the file. Shapes are checked: a wrong operand is an error, not a panic.
//!
//! Not here: the parts of the decoder (see `model`), or the ownership of KV blocks (see `kvcache`).
#![allow(
    clippy::needless_range_loop,
    reason = "kernels count lanes, rows and registers; iterators over them need closures, which \
              are not compiled for the instruction set"
)]

mod attention;
mod context;
mod element;
mod elementwise;
mod embedding;
mod isa;
mod kv;
mod linear;
mod mapped;
mod norm;
mod ragged;
mod rope;
pub mod sampling;
mod scratch;
mod simd;
mod threads;

pub use attention::paged_attention;
pub use context::Context;
pub use elementwise::{add, silu_mul};
pub use embedding::embedding;
pub use isa::Isa;
pub use kv::KvLayer;
pub use linear::{linear, linear_f32};
pub use mapped::{Mapped, map_file};
pub use norm::rms_norm;
pub use ragged::{Ragged, Sequence};
pub use rope::{RopeRows, rope_and_store};
pub use threads::Threads;
