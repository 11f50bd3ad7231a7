//! Groups of every layout: that their ranks agree, and how they end.
#![allow(clippy::unwrap_used, reason = "a test")]

mod aborting;
mod agreement;
mod endings;
mod joining;
#[cfg(feature = "cuda")]
mod nccl;
#[path = "../../../../tests/ports.rs"]
mod ports;
mod processes;
mod ranks;
mod sequences;
mod sweeping;
mod tensors;
